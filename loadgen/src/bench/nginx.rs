//! nginx beside us: the same bytes from memory, by sendfile, with and without TLS.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::http::Ranges;
use super::process::process_cpu;
use super::pull::Line;
use super::rig::Rig;
use crate::cluster::{StepError, file_error, wait_for};

/// Longest wait until it listens.
const START: Duration = Duration::from_secs(10);

/// A web server on core 0; ended when dropped.
pub(super) struct Nginx {
    child: Child,
    folder: PathBuf,
    clear: SocketAddr,
    sealed: SocketAddr,
    size: u64,
}

impl Nginx {
    /// Serves the file `bytes` of `folder`, which is in memory, with the certificate of a node.
    ///
    /// # Errors
    /// [`StepError`] when there is no nginx, or it does not start.
    pub(super) fn start(folder: &Path, rig: &Rig) -> Result<Nginx, StepError> {
        let file = folder.join("bytes");
        let size = std::fs::metadata(&file).map_err(file_error(&file))?.len();
        let (clear, sealed) = (free_port()?, free_port()?);
        let config = folder.join("nginx.conf");
        let certificates = rig.cluster.dir().join("tls");
        let text = configuration(folder, &certificates, clear.port(), sealed.port());
        std::fs::write(&config, text).map_err(file_error(&config))?;
        let child = Command::new("taskset")
            .args(["-c", "0", "nginx", "-e", "stderr", "-c"])
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|source| StepError::Start { program: "nginx".to_owned(), source })?;
        let nginx = Nginx { child, folder: folder.to_path_buf(), clear, sealed, size };
        wait_for("nginx to listen", START, || Ok(TcpStream::connect(nginx.sealed).is_ok()))?;
        Ok(nginx)
    }

    /// CPU time so far, in seconds.
    pub(super) fn cpu(&self) -> f64 {
        process_cpu(self.child.id())
    }

    /// Connections that ask for ranges of so many bytes.
    pub(super) fn lines(
        &self,
        rig: &Rig,
        block: u32,
        sealed: bool,
        count: u64,
    ) -> Result<Vec<Line>, StepError> {
        let failed = |error: std::io::Error| StepError::Different(format!("nginx: {error}"));
        let line = |number| {
            let speech = Box::new(Ranges::new("/bytes", self.size, block.into(), number));
            if sealed {
                let (stream, tls) = rig.handshake(self.sealed, rig.node_name())?;
                return Line::new(stream, Some(tls), speech);
            }
            Line::new(TcpStream::connect(self.clear).map_err(failed)?, None, speech)
        };
        (0..count).map(line).collect()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // It is gone already, or goes now.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(self.folder.join("nginx.conf"));
    }
}

/// An address that nobody listens on.
pub(super) fn free_port() -> Result<SocketAddr, StepError> {
    let failed = |error: std::io::Error| StepError::Different(format!("no port: {error}"));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(failed)?;
    listener.local_addr().map_err(failed)
}

fn configuration(folder: &Path, certificates: &Path, clear: u16, sealed: u16) -> String {
    let (folder, certificates) = (folder.display(), certificates.display());
    format!(
        "daemon off; master_process off; pid {folder}/nginx.pid; error_log /dev/null;
user root;
events {{ worker_connections 64; }}
http {{
  access_log off; sendfile on; tcp_nopush on; tcp_nodelay on;
  keepalive_requests 100000000; keepalive_timeout 600s; open_file_cache max=8;
  client_body_temp_path {folder}/tmp1; proxy_temp_path {folder}/tmp2; fastcgi_temp_path {folder}/tmp3;
  uwsgi_temp_path {folder}/tmp4; scgi_temp_path {folder}/tmp5;
  server {{
    listen 127.0.0.1:{clear};
    listen 127.0.0.1:{sealed} ssl;
    ssl_certificate {certificates}/node-1.pem; ssl_certificate_key {certificates}/node-1.key;
    ssl_protocols TLSv1.3; ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;
    root {folder};
  }}
}}
"
    )
}
