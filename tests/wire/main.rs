//! Officer's protocol and its extension over raw sockets, against real servers: what stands in
//! `docs/protocol.md`, byte for byte where existing clients compare.

mod abuse;
mod descriptors;
mod harness;
mod officer;
mod operators;
mod restart;
mod sessions;
mod socket_file;
mod tokens;
