//! Images in a registry, over the OCI distribution API. Blobs stream; what a registry has already is mounted
//! from one repository to the other, or left where it is.

use std::collections::HashSet;
use std::future::Future;
use std::io::{self, Read};
use std::path::Path;
use std::str::FromStr as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use docker_credential::DockerCredential;
use futures_util::stream::{BoxStream, StreamExt as _};
use oci_client::client::{Certificate, CertificateEncoding, ClientConfig, ClientProtocol};
use oci_client::errors::OciDistributionError;
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, RegistryOperation};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

use super::document::{Digest, Document, media_type};
use super::reference::Access;
use crate::error::{Error, ErrorKind, Result};

/// What a manifest may be.
const ACCEPTED: [&str; 4] =
    [media_type::OCI_INDEX, media_type::DOCKER_LIST, media_type::OCI_MANIFEST, media_type::DOCKER_MANIFEST];

/// Bytes that are sent at a time, and how many of these wait.
const BLOCK: usize = 256 << 10;
const WAITING: usize = 4;

/// How often something is tried that may pass, and how long to wait at first.
const ATTEMPTS: usize = 4;
const PAUSE: Duration = Duration::from_millis(500);

/// How long to wait for a connection.
const CONNECT: Duration = Duration::from_secs(20);

/// A repository in a registry, and an image in it.
#[derive(Clone)]
pub struct Repository {
    reference: oci_client::Reference,
    client: Client,
    auth: RegistryAuth,
    runtime: Arc<Runtime>,
    /// What the registry said that this may do.
    granted: Arc<Mutex<HashSet<&'static str>>>,
}

impl std::fmt::Debug for Repository {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Repository").field(&self.reference).finish()
    }
}

/// A registry on this machine speaks HTTP, as with Docker; every other one has to speak HTTPS.
fn is_local(registry: &str) -> bool {
    let host = registry.rsplit_once(':').map_or(registry, |(host, _)| host);
    host == "localhost" || host.starts_with("127.") || host == "[::1]"
}

/// Who is to be told: by the command line, or by what `docker login` and `podman login` left.
fn credential(registry: &str, access: &Access) -> Result<RegistryAuth> {
    if let Some(words) = &access.credentials {
        let (user, password) = words.split_once(':').unwrap_or((words, ""));
        return Ok(RegistryAuth::Basic(user.to_owned(), password.to_owned()));
    }
    let found = match &access.credentials_file {
        Some(path) => {
            let file = std::fs::File::open(path)
                .map_err(|error| Error::io(format!("cannot open {}", path.display()), error))?;
            docker_credential::get_credential_from_reader(file, registry)
        }
        None => docker_credential::get_credential(registry)
            .or_else(|_| docker_credential::get_podman_credential(registry)),
    };
    Ok(match found {
        Ok(DockerCredential::UsernamePassword(user, password)) => RegistryAuth::Basic(user, password),
        Ok(DockerCredential::IdentityToken(token)) => RegistryAuth::Bearer(token),
        Err(_) => RegistryAuth::Anonymous,
    })
}

/// The certificates in `directory`.
fn certificates(directory: &Path) -> Result<Vec<Certificate>> {
    let cannot = |error| Error::io(format!("cannot read {}", directory.display()), error);
    let mut all = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(cannot)? {
        let path = entry.map_err(cannot)?.path();
        if path.extension().is_some_and(|extension| extension == "crt" || extension == "pem") {
            let data = std::fs::read(&path).map_err(cannot)?;
            all.push(Certificate { encoding: CertificateEncoding::Pem, data });
        }
    }
    Ok(all)
}

impl Repository {
    /// The image that `name` (`HOST[:PORT]/NAME[:TAG|@DIGEST]`) means. Nothing is asked yet.
    ///
    /// # Errors
    /// `Usage` for what is no name of an image.
    pub fn open(name: &str, access: &Access) -> Result<Self> {
        let reference = oci_client::Reference::from_str(name).map_err(|error| {
            Error::new(ErrorKind::Usage, format!("{name} is no name of an image: {error}"))
        })?;
        let registry = reference.resolve_registry().to_owned();
        // A registry on this machine with certificates of its own is one that speaks HTTPS.
        let is_plain = is_local(&registry) && access.certificates.is_none();
        let protocol = if is_plain { ClientProtocol::Http } else { ClientProtocol::Https };
        let extra = access.certificates.as_deref().map_or_else(|| Ok(vec![]), certificates)?;
        let config = ClientConfig {
            protocol,
            accept_invalid_certificates: access.is_insecure,
            extra_root_certificates: extra,
            connect_timeout: Some(CONNECT),
            use_monolithic_push: true,
            user_agent: concat!("vsyspatch/", env!("CARGO_PKG_VERSION")),
            ..ClientConfig::default()
        };
        // Sending reads from one registry while it writes to another.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.map_err(|error| Error::io("cannot start threads", error))?;
        let client = Client::new(config);
        let auth = credential(&registry, access)?;
        Ok(Self { reference, client, auth, runtime: Arc::new(runtime), granted: Arc::default() })
    }

    /// The name, with the registry.
    #[must_use]
    pub fn name(&self) -> String {
        self.reference.whole()
    }

    fn failed(&self, what: &str, error: &OciDistributionError) -> Error {
        let message = format!("{what} {}: {}", self.reference.resolve_registry(), chain(error));
        let remedy = match error {
            OciDistributionError::AuthenticationFailure(_)
            | OciDistributionError::UnauthorizedError { .. } => {
                "log in with docker login, podman login or skopeo login, or use --creds"
            }
            // The digest of a schema 1 manifest is not that of its bytes, which oci-client takes for damage.
            OciDistributionError::DigestError(_) => {
                "an image of before 2016 (schema 1)? skopeo copy docker://... dir:DIR gets it, then name dir:DIR"
            }
            OciDistributionError::ImageManifestNotFoundError(_)
            | OciDistributionError::RegistryError { .. } => "check the name and the tag",
            _ => "check the name, the network and the registry",
        };
        let kind = if is_passing(error) { ErrorKind::Unavailable } else { ErrorKind::Io };
        Error::new(kind, message).remedy(remedy)
    }

    /// Waits for what `ask` begins; begins again where a failure may pass.
    fn insistently<T, F>(&self, what: &str, ask: impl Fn() -> F) -> Result<T>
    where
        F: Future<Output = std::result::Result<T, OciDistributionError>>,
    {
        let mut pause = PAUSE;
        for _ in 1..ATTEMPTS {
            match self.runtime.block_on(ask()) {
                Err(error) if is_passing(&error) => std::thread::sleep(pause),
                done => return done.map_err(|error| self.failed(what, &error)),
            }
            pause *= 2;
        }
        self.runtime.block_on(ask()).map_err(|error| self.failed(what, &error))
    }

    /// Asks for the right to do it, once.
    fn grant(&self, operation: RegistryOperation) -> Result<()> {
        let name = match operation {
            RegistryOperation::Pull => "pull",
            RegistryOperation::Push => "push",
        };
        let mut granted = self.granted.lock().unwrap_or_else(PoisonError::into_inner);
        if granted.insert(name) {
            self.insistently("no access to", || self.client.auth(&self.reference, &self.auth, operation))?;
        }
        Ok(())
    }

    /// The manifest or index: of the reference, or of a digest.
    ///
    /// # Errors
    /// `Io` where the registry does not give it, `Mismatch` where it gives something else.
    pub fn manifest(&self, digest: Option<&Digest>) -> Result<Document> {
        self.grant(RegistryOperation::Pull)?;
        let of_digest = |digest: &Digest| self.reference.clone_with_digest(digest.to_string());
        let reference = digest.map_or_else(|| self.reference.clone(), of_digest);
        let pulled = self.client.pull_manifest_raw(&reference, &self.auth, &ACCEPTED);
        let (bytes, _) =
            self.runtime.block_on(pulled).map_err(|error| self.failed("cannot get from", &error))?;
        let document = Document::parse(bytes.to_vec())?;
        let wanted = digest.map(ToString::to_string).or_else(|| self.reference.digest().map(str::to_owned));
        if wanted.is_some_and(|wanted| wanted != document.digest().to_string()) {
            let message = format!("the registry gave something else: {}", document.digest());
            return Err(Error::new(ErrorKind::Mismatch, message));
        }
        Ok(document)
    }

    /// Reads the blob `digest`.
    ///
    /// # Errors
    /// `Io` where the registry does not give it.
    pub fn blob(&self, digest: &Digest) -> Result<impl Read + use<>> {
        self.grant(RegistryOperation::Pull)?;
        let digest = digest.to_string();
        let stream = self.insistently("cannot get from", || {
            self.client.pull_blob_stream(&self.reference, digest.as_str())
        })?;
        Ok(Download { stream: stream.stream, block: Bytes::new(), runtime: Arc::clone(&self.runtime) })
    }

    /// Lets the registry have the blob `digest`, which `bytes` gives where it is asked for; how many bytes were sent.
    ///
    /// # Errors
    /// `Io` where the registry does not take it.
    pub fn push_blob<'r>(
        &self,
        digest: &Digest,
        size: u64,
        from: Option<&Self>,
        bytes: impl Fn() -> Result<Box<dyn Read + 'r>>,
    ) -> Result<u64> {
        self.grant(RegistryOperation::Push)?;
        let text = digest.to_string();
        let is_there = self.runtime.block_on(self.client.blob_exists(&self.reference, &text));
        if is_there.unwrap_or(false) {
            return Ok(0);
        }
        if let Some(from) = from
            && from.reference.resolve_registry() == self.reference.resolve_registry()
            && self.runtime.block_on(self.client.mount_blob(&self.reference, &from.reference, &text)).is_ok()
        {
            return Ok(0);
        }
        let mut pause = PAUSE;
        for _ in 1..ATTEMPTS {
            match self.send_blob(&text, size, &mut bytes()?) {
                Err(error) if error.kind() == ErrorKind::Unavailable => std::thread::sleep(pause),
                sent => return sent,
            }
            pause *= 2;
        }
        self.send_blob(&text, size, &mut bytes()?)
    }

    /// Sends all that `bytes` gives as the blob `digest`; how much.
    fn send_blob(&self, digest: &str, size: u64, bytes: &mut dyn Read) -> Result<u64> {
        let (sender, mut receiver) = mpsc::channel::<io::Result<Bytes>>(WAITING);
        let stream = futures_util::stream::poll_fn(move |context| receiver.poll_recv(context));
        let stream = stream.map(|block| block.map_err(OciDistributionError::from));
        std::thread::scope(|scope| {
            let pushed = self.client.push_blob_stream(&self.reference, stream, digest, Some(size));
            let pushing = scope.spawn(|| self.runtime.block_on(pushed));
            let read = send(bytes, &sender);
            drop(sender);
            let pushed = pushing.join().map_err(|_| Error::new(ErrorKind::Io, "sending stopped"))?;
            let count = read?;
            pushed.map(|_| count).map_err(|error| self.failed("cannot send to", &error))
        })
    }

    /// Lets the registry have a manifest: under the reference's tag, or under its digest alone.
    ///
    /// # Errors
    /// `Io` where the registry does not take it.
    pub fn push_manifest(&self, manifest: &Document, is_tagged: bool) -> Result<()> {
        self.grant(RegistryOperation::Push)?;
        let by_digest = || self.reference.clone_with_digest(manifest.digest().to_string());
        let reference = if is_tagged { self.reference.clone() } else { by_digest() };
        let is_header = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
        if !is_header(manifest.media_type()) {
            return Err(Error::new(ErrorKind::Malformed, "the manifest's media type is none"));
        }
        self.insistently("cannot send to", || {
            let media_type = manifest.media_type().parse().expect("visible characters");
            self.client.push_manifest_raw(&reference, manifest.bytes.clone(), media_type)
        })?;
        Ok(())
    }
}

/// Whether the same request may succeed a little later.
fn is_passing(error: &OciDistributionError) -> bool {
    const TIMEOUT: u16 = 408;
    const TOO_MANY: u16 = 429;
    let is_passing = |code: u16| code >= 500 || code == TIMEOUT || code == TOO_MANY;
    match error {
        OciDistributionError::ServerError { code, .. } => is_passing(*code),
        OciDistributionError::RequestError(error) => {
            error.status().map_or(!error.is_builder(), |status| is_passing(status.as_u16()))
        }
        OciDistributionError::IoError(_) => true,
        _ => false,
    }
}

/// What was wrong, with its causes: the connection that was refused, the certificate that nobody vouches for.
fn chain(error: &OciDistributionError) -> String {
    let mut text = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

/// Sends everything that `bytes` gives; how much.
fn send(bytes: &mut dyn Read, sender: &mpsc::Sender<io::Result<Bytes>>) -> Result<u64> {
    let mut sent = 0;
    loop {
        let mut block = vec![0; BLOCK];
        match bytes.read(&mut block) {
            Ok(0) => return Ok(sent),
            Ok(count) => {
                block.truncate(count);
                sent += count as u64;
                if sender.blocking_send(Ok(block.into())).is_err() {
                    return Ok(sent); // whoever receives has failed, and says why
                }
            }
            Err(error) => {
                let told = io::Error::new(error.kind(), error.to_string());
                let _ = sender.blocking_send(Err(told));
                return Err(Error::io("cannot read", error));
            }
        }
    }
}

/// A blob as it comes in.
struct Download {
    stream: BoxStream<'static, io::Result<Bytes>>,
    block: Bytes,
    runtime: Arc<Runtime>,
}

impl Read for Download {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.block.is_empty() {
            match self.runtime.block_on(self.stream.next()) {
                Some(block) => self.block = block?,
                None => return Ok(0),
            }
        }
        let count = self.block.len().min(buffer.len());
        buffer[..count].copy_from_slice(&self.block.split_to(count));
        Ok(count)
    }
}
