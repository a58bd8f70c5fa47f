//! Rust from the protos, by protox: no `protoc` has to be installed.

use std::path::PathBuf;

const PROTOS: [&str; 2] = ["kv.proto", "lumen/v1/lumen.proto"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(PROTOS, ["proto"])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    // For reflection: clients need no files.
    std::fs::write(out.join("protos.bin"), prost::Message::encode_to_vec(&descriptors))?;
    let builder = tonic_prost_build::configure().bytes(".");
    builder.compile_fds(descriptors)?;
    Ok(())
}
