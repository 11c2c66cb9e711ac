//! One core: next event, pure step, run effects.
