use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;

use protocol::ids::{ClusterId, CoordinatorId, NodeId};
use protocol::tls::{Identity, TlsFiles, client_config};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;

use super::{Authority, CLUSTER, FakeNode, Peer, Raw, soon};

/// Files of a cluster with one coordinator, which may run or not.
pub(crate) struct Cluster {
    dir: TempDir,
    authority: Authority,
    port: u16,
    extra: String,
}

impl Cluster {
    pub(crate) fn new() -> Cluster {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::new();
        let itself = Identity::Coordinator(CoordinatorId(1));
        authority.issue(dir.path(), "c1", CLUSTER, &itself);
        Cluster { dir, authority, port: 0, extra: String::new() }
    }

    /// Adds lines to the top of the configuration, or tables to its end.
    pub(crate) fn with(mut self, extra: &str) -> Cluster {
        self.extra.push_str(extra);
        self
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Writes the configuration and returns its path.
    pub(crate) fn config(&self) -> PathBuf {
        let (top, tables) = match self.extra.find('[') {
            Some(at) => self.extra.split_at(at),
            None => (self.extra.as_str(), ""),
        };
        let text = format!(
            "coordinator = 1\ncluster = \"{CLUSTER}\"\nlisten = \"127.0.0.1:{}\"\n\
             data_dir = \"data\"\n{top}\n[tls]\nca = \"c1.ca\"\ncert = \"c1.pem\"\n\
             key = \"c1.key\"\n{tables}\n",
            self.port
        );
        let path = self.path().join("coordinator.toml");
        fs::write(&path, text).unwrap();
        path
    }

    /// Starts the coordinator and waits until it serves; later starts use the same port.
    pub(crate) async fn start(&mut self) -> Running {
        let mut running = Running::spawn(&self.config());
        let line = running.line("serving").await;
        let address = line.split("listen=").nth(1).unwrap().split(' ').next().unwrap();
        running.address = address.parse().unwrap();
        self.port = running.address.port();
        running
    }

    pub(crate) fn tls(&self, identity: &Identity) -> TlsFiles {
        self.tls_of(CLUSTER, identity)
    }

    /// As [`Cluster::tls`], signed by the same authority but with the name of another cluster.
    pub(crate) fn tls_of(&self, cluster: ClusterId, identity: &Identity) -> TlsFiles {
        let name = format!("{identity:?}").replace(|c: char| !c.is_alphanumeric(), "");
        self.authority.issue(&self.path().join(cluster.to_string()), &name, cluster, identity)
    }

    pub(crate) async fn connect(&self, running: &Running, identity: &Identity) -> Peer {
        let raw = self.raw(running, identity).await;
        raw.into_peer().await
    }

    pub(crate) async fn admin(&self, running: &Running) -> Peer {
        self.connect(running, &Identity::Admin("root".into())).await
    }

    pub(crate) async fn client(&self, running: &Running, name: &str) -> Peer {
        self.connect(running, &Identity::Client(name.into())).await
    }

    pub(crate) async fn node(&self, running: &Running, number: u32) -> FakeNode {
        let peer = self.connect(running, &Identity::Node(NodeId(number))).await;
        FakeNode::new(number, peer)
    }

    /// A TLS connection on which nothing was said yet.
    pub(crate) async fn raw(&self, running: &Running, identity: &Identity) -> Raw {
        let config = client_config(&self.tls(identity)).unwrap();
        Raw::connect(running.address, config).await.unwrap()
    }
}

/// A running coordinator process; killed when dropped.
pub(crate) struct Running {
    child: Child,
    lines: watch::Receiver<Arc<Vec<String>>>,
    pub(crate) address: SocketAddr,
}

impl Running {
    /// Starts the process with a configuration, good or not.
    pub(crate) fn spawn(config: &Path) -> Running {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lanefs-coordinator"));
        command.arg("--config").arg(config);
        Running::run(command)
    }

    /// Starts the process with a command that ends in it.
    pub(crate) fn run(mut command: Command) -> Running {
        command.stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let stderr = child.stderr.take().unwrap();
        let (sender, lines) = watch::channel(Arc::new(Vec::new()));
        tokio::spawn(async move {
            let mut reader = BufReader::new(stderr).lines();
            while let Ok(Some(line)) = reader.next_line().await {
                sender.send_modify(|lines| Arc::make_mut(lines).push(line));
            }
        });
        Running { child, lines, address: "127.0.0.1:0".parse().unwrap() }
    }

    /// Waits for a log line that contains `text`.
    pub(crate) async fn line(&self, text: &str) -> String {
        let mut lines = self.lines.clone();
        let there = lines.wait_for(|lines| lines.iter().any(|line| line.contains(text)));
        let found = soon(text, there).await;
        match found {
            Ok(lines) => lines.iter().find(|line| line.contains(text)).unwrap().clone(),
            Err(_) => panic!("the process ended without {text:?}: {:?}", self.lines()),
        }
    }

    /// Every log line so far.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.lines.borrow().to_vec()
    }

    /// Kills the process with SIGKILL.
    pub(crate) async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }

    /// Sends SIGTERM and waits for the end.
    pub(crate) async fn terminate(mut self) -> ExitStatus {
        let pid = rustix::process::Pid::from_raw(self.pid().try_into().unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        soon("end after SIGTERM", self.child.wait()).await.unwrap()
    }

    /// Waits until the process ends on its own; returns its code and everything it wrote.
    pub(crate) async fn ended(mut self) -> (Option<i32>, Vec<String>) {
        let status = soon("end", self.child.wait()).await.unwrap();
        // The reader ends with the pipe; then the sender is gone.
        while self.lines.changed().await.is_ok() {}
        (status.code(), self.lines())
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id().unwrap()
    }

    /// Resident memory, in KiB.
    pub(crate) fn resident_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}
