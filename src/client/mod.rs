//! The Officer client.
