//! The harness itself, on one node: kills, a restart from the bucket, and a history that is right.

use std::process::Command;

fn run(scenario: &str) {
    let own = std::path::Path::new(env!("CARGO_BIN_EXE_netsy-cluster-tests"));
    let netsy = std::env::var_os("NETSY_BIN").map_or_else(|| own.with_file_name("netsy"), Into::into);
    assert!(netsy.exists(), "{} is not there: cargo build -p netsy, or set NETSY_BIN", netsy.display());
    let mut command = Command::new(own);
    command.args(["run", scenario, "--nodes=1", "--limit=120"]).arg("--netsy").arg(netsy);
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("good: "), "{text}");
}

#[test]
fn calm() {
    run("calm");
}

#[test]
fn killed_again_and_again() {
    run("kill-primary");
}
