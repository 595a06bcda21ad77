//! A server on loopback, with certificates of its own, that can be killed and started again.

#![allow(dead_code, reason = "each test takes what it needs")]

use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use afterimage_server::{Authority, Client, Grants, Issued, Limits, Server};
use object_store::ObjectStore;
use tokio::task::JoinHandle;

/// An authority, and certificates that it made.
pub(crate) struct Site {
    folder: tempfile::TempDir,
    authority: Authority,
    here: Issued,
    grants: String,
}

impl Site {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::create(folder.path()).unwrap();
        let hosts = ["localhost".into(), "127.0.0.1".into()];
        let here = authority
            .issue_server(&hosts, &folder.path().join("server"))
            .unwrap();
        Self {
            folder,
            authority,
            here,
            grants: String::new(),
        }
    }

    pub(crate) fn path(&self) -> &FilePath {
        self.folder.path()
    }

    /// A client that is not on the list.
    pub(crate) fn stranger(&self, name: &str) -> Issued {
        let path: PathBuf = self.folder.path().join(name);
        self.authority.issue_client(name, &path).unwrap()
    }

    /// A client with these rights, as lines of TOML.
    pub(crate) fn client(&mut self, name: &str, rights: &str) -> Issued {
        let issued = self.stranger(name);
        let digest = &issued.fingerprint;
        let entry = format!("[[client]]\nname = '{name}'\ncertificate = '{digest}'\n{rights}\n");
        self.grants.push_str(&entry);
        issued
    }

    /// Serves `objects` to the clients so far.
    pub(crate) async fn serve(&self, objects: Arc<dyn ObjectStore>, limits: Limits) -> Running {
        self.serve_at("127.0.0.1:0", objects, limits).await
    }

    async fn serve_at(
        &self,
        address: &str,
        objects: Arc<dyn ObjectStore>,
        limits: Limits,
    ) -> Running {
        let grants: Grants = self.grants.parse().unwrap();
        let (identity, store) = (&self.here.identity, Arc::clone(&objects));
        let server = Server::bind(address, identity, store, grants, limits.clone())
            .await
            .unwrap();
        let port = server.local_addr().unwrap().port();
        let serving = tokio::spawn(server.run(std::future::pending()));
        Running {
            port,
            objects,
            limits,
            serving,
        }
    }

    /// Kills the server, whatever it is at, and starts it at the same place.
    pub(crate) async fn restart(&self, running: &mut Running) {
        running.serving.abort();
        let _ = (&mut running.serving).await;
        let address = format!("127.0.0.1:{}", running.port);
        let objects = Arc::clone(&running.objects);
        *running = self
            .serve_at(&address, objects, running.limits.clone())
            .await;
    }
}

/// A server that runs until it is dropped.
pub(crate) struct Running {
    pub(crate) port: u16,
    objects: Arc<dyn ObjectStore>,
    limits: Limits,
    serving: JoinHandle<()>,
}

impl Running {
    pub(crate) fn url(&self) -> String {
        format!("afterimage://localhost:{}/", self.port)
    }

    pub(crate) fn client(&self, issued: &Issued) -> Client {
        Client::new(&self.url(), &issued.identity).unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.serving.abort();
    }
}
