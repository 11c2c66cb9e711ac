//! Chooses members of placement groups. Pure and deterministic.
