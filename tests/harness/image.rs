//! Images that are made by hand: layers, layouts, and a registry of its own to have them in.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use sha2::Digest as _;

use super::{Ran, read, temp_dir};

pub const PROGRAM: &[u8] = include_bytes!("../../corpus/prebuilt/forms");
pub const LIBRARY: &[u8] = include_bytes!("../../corpus/prebuilt/forms.so");
pub const OTHER: &[u8] = include_bytes!("../../corpus/prebuilt/demo");

pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(sha2::Sha256::digest(bytes)))
}

/// A layer that GNU tar makes of what `make` puts into a directory.
pub fn layer(make: impl FnOnce(&Path)) -> Vec<u8> {
    let dir = temp_dir();
    let tree = dir.path().join("layer");
    fs::create_dir(&tree).expect("made");
    make(&tree);
    let mut tar = Command::new("tar");
    tar.args(["--sort=name", "--mtime=2010-04-05", "--owner=0", "--group=0", "--numeric-owner", "--xattrs"]);
    // The same files make the same layer: without the times and the process of this run.
    tar.arg("--pax-option=exthdr.name=%d/PaxHeaders/%f,atime:=0,ctime:=0");
    let archive = dir.path().join("layer.tar");
    Ran::of(tar.arg("-C").arg(&tree).arg("-cf").arg(&archive).arg(".")).expect(0);
    read(&archive)
}

pub fn put(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().expect("a directory")).expect("made");
    fs::write(path, bytes).expect("written");
    fs::set_permissions(path, Permissions::from_mode(0o755)).expect("its mode");
}

/// A layer with these files; one without content is a whiteout.
pub fn files(all: &[(&str, &[u8])]) -> Vec<u8> {
    layer(|tree| all.iter().for_each(|(path, bytes)| put(&tree.join(path), bytes)))
}

/// A layout that is made by hand.
pub struct Layout(pub PathBuf);

impl Layout {
    pub fn new(dir: &Path, name: &str) -> Self {
        let path = dir.join(name);
        fs::create_dir_all(path.join("blobs/sha256")).expect("made");
        fs::write(path.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("written");
        Self(path)
    }

    pub fn blob(&self, bytes: &[u8]) -> String {
        let digest = digest(bytes);
        fs::write(self.0.join("blobs/sha256").join(&digest[7..]), bytes).expect("written");
        digest
    }

    /// A manifest of these layers: media type and blob, and the uncompressed layer.
    pub fn manifest(&self, architecture: &str, layers: &[(&str, &[u8], &[u8])]) -> Value {
        let diff_ids: Vec<String> = layers.iter().map(|(_, _, tar)| digest(tar)).collect();
        let history: Vec<Value> =
            layers.iter().map(|_| json!({ "created_by": "test", "x": { "b": 1, "a": 2 } })).collect();
        let config = json!({ "zeta": [1], "architecture": architecture, "os": "linux", "created": "2010-04-05T00:00:00Z",
            "config": { "Cmd": ["/bin/program"], "Unknown": null }, "rootfs": { "type": "layers", "diff_ids": diff_ids },
            "history": history, "alpha": true });
        let config = serde_json::to_vec(&config).expect("JSON");
        let layers: Vec<Value> = layers
            .iter()
            .map(
                |(kind, blob, _)| json!({ "mediaType": kind, "digest": self.blob(blob), "size": blob.len() }),
            )
            .collect();
        let manifest = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "unknown": "kept", "layers": layers,
            "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": self.blob(&config), "size": config.len() } });
        self.descriptor(MANIFEST, &manifest)
    }

    pub fn descriptor(&self, kind: &str, document: &Value) -> Value {
        let bytes = serde_json::to_vec(document).expect("JSON");
        json!({ "mediaType": kind, "digest": self.blob(&bytes), "size": bytes.len() })
    }

    pub fn finish(&self, mut root: Value) -> String {
        root["annotations"] = json!({ "org.opencontainers.image.ref.name": "v1" });
        let index = json!({ "schemaVersion": 2, "manifests": [root] });
        fs::write(self.0.join("index.json"), index.to_string()).expect("written");
        format!("oci:{}:v1", self.0.display())
    }

    pub fn document(&self, digest: &Value) -> Value {
        let name = &digest.as_str().expect("a digest")[7..];
        serde_json::from_slice(&read(&self.0.join("blobs/sha256").join(name))).expect("JSON")
    }

    /// The first image of the layout: manifest and configuration.
    pub fn image(&self) -> [Value; 2] {
        let index: Value = serde_json::from_slice(&read(&self.0.join("index.json"))).expect("JSON");
        let manifest = self.document(&index["manifests"][0]["digest"]);
        let config = self.document(&manifest["config"]["digest"]);
        [manifest, config]
    }
}

/// An image of uncompressed layers.
pub fn image(dir: &Path, layers: &[Vec<u8>]) -> String {
    let layout = Layout::new(dir, "image");
    let layers: Vec<(&str, &[u8], &[u8])> =
        layers.iter().map(|tar| (LAYER, tar.as_slice(), tar.as_slice())).collect();
    let root = layout.manifest("amd64", &layers);
    layout.finish(root)
}

/// An archive as Docker before 1.10 saved it, of the layers, the lowest first.
pub fn archive_of_2014(dir: &Path, layers: &[Vec<u8>]) -> PathBuf {
    let tree = dir.join("old");
    let mut parent = None;
    for (number, layer) in layers.iter().enumerate() {
        let id = format!("{number:064x}");
        let mut v1 = json!({ "id": id, "created": "2013-04-05T00:00:00Z", "architecture": "amd64", "os": "linux",
            "container_config": { "Cmd": ["/bin/sh", "-c", "#(nop) ADD"] }, "config": { "Cmd": ["/bin/program"] }, "Size": layer.len() });
        if let Some(parent) = parent {
            v1["parent"] = json!(parent);
        }
        put(&tree.join(&id).join("json"), v1.to_string().as_bytes());
        put(&tree.join(&id).join("VERSION"), b"1.0");
        put(&tree.join(&id).join("layer.tar"), layer);
        parent = Some(id);
    }
    put(&tree.join("repositories"), json!({ "legacy": { "1": parent } }).to_string().as_bytes());
    let archive = dir.join("old.tar");
    Ran::of(Command::new("tar").arg("-C").arg(&tree).arg("-cf").arg(&archive).arg(".")).expect(0);
    archive
}

/// A registry of its own on a free port of this machine.
pub struct Registry {
    child: Child,
    pub address: String,
    settings: PathBuf,
}

impl Registry {
    pub fn start(dir: &Path) -> Self {
        Self::with(dir, "")
    }

    /// One that lets `user` in alone, with the password `secret`.
    pub fn closed(dir: &Path) -> Self {
        const HTPASSWD: &str = "user:$2b$04$0Kh/VGChcXzNCny3DbI3cu5RDSa6wgIQ06kfGwK/vFM7kLsKX3/FW\n";
        let password = dir.join("htpasswd");
        fs::write(&password, HTPASSWD).expect("written");
        Self::with(dir, &format!("auth:\n  htpasswd:\n    realm: test\n    path: {}\n", password.display()))
    }

    /// One that speaks HTTPS, and the directory with the certificate of the authority that vouches for it.
    pub fn over_tls(dir: &Path) -> (Self, PathBuf) {
        let openssl = |words: &str| {
            Ran::of(Command::new("openssl").args(words.split(' ')).current_dir(dir)).expect(0);
        };
        let authorities = dir.join("authorities");
        fs::create_dir(&authorities).expect("made");
        let new = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2";
        openssl(&format!("req -x509 {new} -subj /CN=authority -keyout ca.key -out authorities/ca.crt"));
        openssl(&format!(
            "req -x509 {new} -subj /CN=registry -CA authorities/ca.crt -CAkey ca.key -keyout key.pem -out cert.pem \
            -addext subjectAltName=IP:127.0.0.1 -addext basicConstraints=critical,CA:FALSE"
        ));
        let path = |name: &str| dir.join(name).display().to_string();
        let tls = format!("  tls:\n    certificate: {}\n    key: {}\n", path("cert.pem"), path("key.pem"));
        (Self::with(dir, &tls), authorities)
    }

    /// One with these lines more at the end of its settings, which are those of `http`.
    pub fn with(dir: &Path, lines: &str) -> Self {
        let port =
            std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound").port();
        let address = format!("127.0.0.1:{port}");
        let root = dir.join("registry");
        let settings = format!(
            "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\ncompatibility:\n  schema1:\n    enabled: true\nhttp:\n  addr: {address}\n{lines}",
            root.display()
        );
        let file = dir.join("registry.yml");
        fs::write(&file, settings).expect("written");
        Self { child: Self::started(&file, &address), address, settings: file }
    }

    fn started(settings: &Path, address: &str) -> Child {
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(settings).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().expect("it starts");
        let begun = std::time::Instant::now();
        while std::net::TcpStream::connect(address).is_err() {
            assert!(begun.elapsed().as_secs() < 90, "the registry does not start");
            std::thread::yield_now();
        }
        child
    }

    /// Kills it.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts it again, where it was.
    pub fn start_again(&mut self) {
        self.child = Self::started(&self.settings, &self.address);
    }

    /// Sends the image of the layout, as an engine does, under all of the `tags`.
    pub fn push(&self, layout: &Layout, repository: &str, tags: &[&str]) {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http =
            reqwest::blocking::Client::builder().no_proxy().tls_certs_only([]).build().expect("a client");
        let at = |rest: &str| format!("http://{}/v2/{repository}/{rest}", self.address);
        let index: Value = serde_json::from_slice(&read(&layout.0.join("index.json"))).expect("JSON");
        let blob =
            |digest: &Value| read(&layout.0.join("blobs/sha256").join(&digest.as_str().expect("text")[7..]));
        let bytes = blob(&index["manifests"][0]["digest"]);
        let manifest: Value = serde_json::from_slice(&bytes).expect("JSON");
        let layers = manifest["layers"].as_array().expect("layers").iter();
        for part in layers.chain([&manifest["config"]]) {
            let begun = http.post(at("blobs/uploads/")).body("").send().expect("an answer");
            let place = begun.headers()["location"].to_str().expect("text").to_owned();
            let digest = part["digest"].as_str().expect("text");
            let sent = http.put(format!("{place}&digest={digest}")).body(blob(&part["digest"])).send();
            assert_eq!(sent.expect("an answer").status(), 201);
        }
        for tag in tags {
            let sent = http.put(at(&format!("manifests/{tag}"))).header("content-type", MANIFEST);
            assert_eq!(sent.body(bytes.clone()).send().expect("an answer").status(), 201);
        }
    }

    /// Loses the blob `digest` (`sha256:...`).
    pub fn lose(&self, digest: &str) {
        let (hex, root) = (&digest[7..], self.settings.with_file_name("registry"));
        let blob = root.join("docker/registry/v2/blobs/sha256").join(&hex[..2]).join(hex).join("data");
        fs::remove_file(blob).expect("gone");
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.kill();
    }
}
