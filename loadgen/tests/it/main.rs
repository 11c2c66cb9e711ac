//! Integration tests of the test tools themselves and of the simulated cluster.

mod first_light;
