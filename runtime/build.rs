//! Exports from the executable the functions that it stands in for (see `src/host/loader/takeover.rs`), so that
//! the libraries that the host opens are linked against them.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let functions = [
        "__cxa_thread_atexit_impl",
        "pthread_key_create",
        "pthread_key_delete",
        "pthread_create",
        "exit",
        "_exit",
    ];
    for function in functions {
        println!("cargo::rustc-link-arg-bins=-Wl,--export-dynamic-symbol={function}");
    }
}
