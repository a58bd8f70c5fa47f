//! The `lumen` program: parses the command line, runs it, and ends with the exit code that says how it went.
#![forbid(unsafe_code)]

mod api;
mod body;
mod cli;
mod config;
mod error;
mod feed;
mod grpc;
mod http;
mod metrics;
mod node;
mod peer;
mod serve;
mod store;

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cli::main()
}
