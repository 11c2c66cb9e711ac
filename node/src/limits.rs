//! Every bound that only the data node holds. Each line says who can hold one.
