//! The lock server: one thread on mio that owns the lock table.
