//! Generates Rust from the `.proto` files. `protox` compiles them, so a build needs no `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile(
        [
            "etcd/rpc.proto",
            "grpc/health.proto",
            "netsy/file.proto",
            "netsy/legacy.proto",
            "netsy/peer.proto",
            "netsy/engine.proto",
            "netsy/operator.proto",
        ],
        ["proto"],
    )?;
    tonic_prost_build::configure()
        .bytes(".")
        .build_client(true)
        .build_server(true)
        .build_transport(true)
        .compile_fds(files)?;
    Ok(())
}
