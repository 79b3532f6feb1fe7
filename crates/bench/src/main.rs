//! netsy-bench: puts load on servers that speak the etcd v3 API and says how they bear it, one
//! alone or two side by side.
//!
//! Not for: correctness (the tests), clusters under faults (the simulator), TLS.
//!
//! Start reading at [`engine::run`]: one thread, a hand-written gRPC client, any of the `loads`.

mod cli;
mod engine;
mod hpack;
mod hpack_tables;
mod http2;
mod keys;
mod loads;
mod messages;
mod meter;
mod proc;
mod report;
mod restart;
mod rounds;
mod rows;
mod servers;
mod spec;
mod suite;
mod target;
mod tonic_check;

fn main() -> std::process::ExitCode {
    match cli::main() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("netsy-bench: {e:#}");
            std::process::ExitCode::FAILURE
        }
    }
}
