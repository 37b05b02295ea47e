//! The same router as a program of its own, without relmgr: what the benchmark compares with.
//!
//! `cargo run --release --example plain -- 127.0.0.1:8081`

use axum::serve::ListenerExt;
use live_poll::LivePoll;
use live_poll::settings::Settings;
use relmgr_app::Application;
use relmgr_app::testing::Alone;

#[tokio::main]
async fn main() -> Result<(), relmgr_app::Error> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8081".into());
    let listener = tokio::net::TcpListener::bind(address).await?;
    println!("listening on {}", listener.local_addr()?);
    // As the host has it.
    let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
    // The same store as a host's, in a directory of its own.
    let alone = Alone::new()?;
    let app = LivePoll::open(&alone.context("plain"), Settings::default())?;
    axum::serve(listener, app.router()).await?;
    Ok(())
}
