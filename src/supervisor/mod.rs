//! Runs a command and ends its whole process tree. Knows nothing of locks.
