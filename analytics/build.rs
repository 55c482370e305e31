//! Lets the binary find `libduckdb.so` beside itself, and test binaries one folder up.

fn main() {
    println!("cargo:rustc-link-arg=-Wl,-rpath,$ORIGIN");
    println!("cargo:rustc-link-arg=-Wl,-rpath,$ORIGIN/..");
}
