//! PostgreSQL behind PgBouncer, which keeps a session for each client.

use nix::sys::signal::Signal;

use super::postgresql::{CROWD, HELLO, READY_FOR_QUERY, serve};
use super::probe::answers;
use super::server::{Need, Server};
use super::stage::Stage;

/// The setup's server.
pub(super) const SERVER: Server = Server {
    name: "postgresql-pgbouncer",
    needs: &[
        Need { file: "initdb", package: "postgresql" },
        Need { file: "postgres", package: "postgresql" },
        Need { file: "pgbouncer", package: "pgbouncer" },
    ],
    start,
};

fn start(stage: &mut Stage<'_>) -> anyhow::Result<String> {
    let server = serve(stage, Some(CROWD))?;
    let port = stage.port()?;
    let settings = format!(
        "[databases]\n\
         postgres = host=127.0.0.1 port={server} dbname=postgres user=postgres\n\
         [pgbouncer]\n\
         listen_addr = 127.0.0.1\n\
         listen_port = {port}\n\
         unix_socket_dir =\n\
         auth_type = any\n\
         pool_mode = session\n\
         default_pool_size = 180\n\
         max_client_conn = 500\n"
    );
    stage.write("pgbouncer.ini", &settings)?;
    let mut command = stage.command("pgbouncer")?;
    command.arg(stage.path("pgbouncer.ini")?);
    // SIGTERM ends it at once; SIGINT would wait for its clients.
    stage.spawn("pgbouncer", command, Signal::SIGTERM)?;
    stage.wait_ready(move || answers(port, HELLO, READY_FOR_QUERY))?;
    Ok(format!("postgres@127.0.0.1:{port}/postgres"))
}
