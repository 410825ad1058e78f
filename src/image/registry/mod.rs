//! Images in a registry, over the OCI distribution API. Blobs stream; what a registry has already is mounted
//! from one repository to the other, or left where it is.
//!
//! **Invariants.** Credentials go to the registry and to the token server that it names, never to where it
//! redirects to, and never in the clear where it speaks HTTPS. What may pass is tried again, after a pause that
//! grows or that the registry asks for; a blob that breaks off goes on where it broke off. No answer is read
//! without a bound. A tag is the last thing that is sent.
//!
//! * `access`: who is to be told to whom. `failure`: what an answer means that is none. [`listing`]: which
//!   repositories and tags there are.

mod access;
mod failure;
pub mod listing;

use std::collections::HashMap;
use std::io::{self, Read};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::str::FromStr as _;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime};

use reqwest::blocking::{Body, Client, RequestBuilder, Response};
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, LINK, LOCATION};
use reqwest::header::{RANGE, RETRY_AFTER, WWW_AUTHENTICATE};
use reqwest::{StatusCode, Url};

use access::Credential;
use failure::{Asked, broken, is_distrust};

use super::document::{DESCRIBING_TAGS, Descriptor, Digest, Document, media_type};
use super::legacy;
use super::reference::Access;
use crate::error::{Error, ErrorKind, Result};
use crate::limits;

/// What a manifest may be; schema 1 where there is nothing newer.
const ACCEPTED: [&str; 6] = [
    media_type::OCI_INDEX,
    media_type::DOCKER_LIST,
    media_type::OCI_MANIFEST,
    media_type::DOCKER_MANIFEST,
    "application/vnd.docker.distribution.manifest.v1+prettyjws;q=0.5",
    "application/vnd.docker.distribution.manifest.v1+json;q=0.5",
];

/// The registry's own checksum of a manifest.
const CONTENT_DIGEST: &str = "Docker-Content-Digest";

/// Bytes that are sent at a time, and how many of these wait.
const BLOCK: usize = 256 << 10;
const WAITING: usize = 4;

/// Blobs that are sent at once: of one image there are two that are new.
const AT_ONCE: usize = 4;

/// How often something is tried that may pass, how long to wait at first, and how long at most.
const ATTEMPTS: usize = 4;
const PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// How long to wait for a connection, and for an answer or its next bytes.
const CONNECT: Duration = Duration::from_secs(20);
const ANSWER: Duration = Duration::from_secs(60);

/// Bytes in a second at which sending a blob is too slow to be waited for.
const SLOWEST: u64 = 32 << 10;

/// What somebody wants to do in a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Right {
    Pull,
    Push,
    /// To know which repositories there are.
    List,
}

/// A repository in a registry, and an image in it.
pub struct Repository {
    name: oci_spec::distribution::Reference,
    http: Client,
    credential: Credential,
    /// Whether it may speak HTTP, where it does not speak HTTPS.
    may_be_plain: bool,
    /// `https://HOST[:PORT]`, once that is known.
    base: Arc<OnceLock<Url>>,
    /// What the registry wants to hear, for each right.
    granted: Mutex<HashMap<Right, HeaderValue>>,
    /// A repository of the same registry that blobs are mounted from.
    mounted: Option<String>,
}

impl std::fmt::Debug for Repository {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Repository").field(&self.name).finish()
    }
}

/// The parts of an image's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parts {
    /// `HOST[:PORT]`
    pub registry: String,
    /// `team/app`
    pub repository: String,
    /// The tag; `latest` where the name has none.
    pub tag: String,
    /// `sha256:...`
    pub digest: Option<String>,
}

/// The parts of `name` (`HOST[:PORT]/NAME[:TAG|@DIGEST]`).
///
/// # Errors
/// `Usage` for what is no name of an image.
pub fn parts(name: &str) -> Result<Parts> {
    let name = parsed(name)?;
    Ok(Parts {
        registry: name.registry().to_owned(),
        repository: name.repository().to_owned(),
        tag: name.tag().unwrap_or("latest").to_owned(),
        digest: name.digest().map(str::to_owned),
    })
}

fn parsed(name: &str) -> Result<oci_spec::distribution::Reference> {
    oci_spec::distribution::Reference::from_str(name).map_err(|error| {
        Error::new(ErrorKind::Usage, format!("{name} is no name of an image: {error}"))
            .remedy("HOST[:PORT]/NAME[:TAG|@DIGEST], the name in lower case")
    })
}

/// A registry on this machine may speak HTTP, as with Docker; every other one has to speak HTTPS.
fn is_local(registry: &str) -> bool {
    let host = registry.rsplit_once(':').map_or(registry, |(host, _)| host);
    let is_loopback = host.parse().is_ok_and(|address: Ipv4Addr| address.is_loopback());
    host == "localhost" || is_loopback || host == "[::1]"
}

/// Who asks: one for all images that are got at in the same way, so that connections and certificates are, too.
fn client(access: &Access, is_local: bool) -> Result<Client> {
    type Known = Vec<((bool, Option<PathBuf>, bool), Client)>;
    static KNOWN: Mutex<Known> = Mutex::new(Vec::new());
    let way = (access.is_insecure, access.certificates.clone(), is_local);
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, client)) = known.iter().find(|(other, _)| *other == way) {
        return Ok(client.clone());
    }
    // Whoever uses the library may have chosen another one before.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut http = Client::builder()
        .user_agent(concat!("vsyspatch/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT)
        .timeout(ANSWER)
        .tls_danger_accept_invalid_certs(access.is_insecure)
        .tls_certs_merge(access::authorities(access)?);
    if is_local {
        http = http.no_proxy();
    }
    let http = http.build().map_err(|error| {
        Error::new(ErrorKind::Io, format!("cannot reach registries: {}", failure::chain(&error)))
    })?;
    known.push((way, http.clone()));
    Ok(http)
}

/// Where the registry is, once one of its repositories knows.
fn base_of(registry: &str, may_be_plain: bool) -> Arc<OnceLock<Url>> {
    type Known = Vec<((String, bool), Arc<OnceLock<Url>>)>;
    static KNOWN: Mutex<Known> = Mutex::new(Vec::new());
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, base)) =
        known.iter().find(|((host, plain), _)| host == registry && *plain == may_be_plain)
    {
        return Arc::clone(base);
    }
    let base = Arc::default();
    known.push(((registry.to_owned(), may_be_plain), Arc::clone(&base)));
    base
}

impl Repository {
    /// The image that `name` (`HOST[:PORT]/NAME[:TAG|@DIGEST]`) means. Nothing is asked yet.
    ///
    /// # Errors
    /// `Usage` for what is no name of an image.
    pub fn open(name: &str, access: &Access) -> Result<Self> {
        let name = parsed(name)?;
        let registry = name.resolve_registry();
        let is_local = is_local(registry);
        let http = client(access, is_local)?;
        let credential = access::credential(registry, access)?;
        let may_be_plain = access.is_insecure || (is_local && access.certificates.is_none());
        let (base, granted) = (base_of(registry, may_be_plain), Mutex::default());
        Ok(Self { name, http, credential, may_be_plain, base, granted, mounted: None })
    }

    /// The same, for taking blobs from the repository `from`, where that is another one in the same registry.
    #[must_use]
    pub fn mounting(self, from: Option<&Self>) -> Self {
        let from = from.filter(|from| from.host() == self.host() && !from.is(&self));
        Self { mounted: from.map(|from| from.name.repository().to_owned()), ..self }
    }

    /// Whether both are one repository.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        self.host() == other.host() && self.name.repository() == other.name.repository()
    }

    /// The name, with the registry.
    #[must_use]
    pub fn name(&self) -> String {
        self.name.whole()
    }

    /// The name of the image `digest` in this repository, which never means another one.
    #[must_use]
    pub fn name_of(&self, digest: &Digest) -> String {
        format!("{}/{}@{digest}", self.name.registry(), self.name.repository())
    }

    fn host(&self) -> &str {
        self.name.resolve_registry()
    }

    /// The manifest or index: of the name, or of a digest.
    ///
    /// # Errors
    /// `Io` where the registry does not give it, `Unavailable` where it may later, `Mismatch` where it gives
    /// something else.
    pub fn manifest(&self, digest: Option<&Digest>) -> Result<Document> {
        let named = || self.name.digest().or(self.name.tag()).unwrap_or("latest").to_owned();
        let name = digest.map_or_else(named, ToString::to_string);
        let asked = Asked { what: "manifest", name: &name, repository: self };
        let (bytes, told) = self.insistently(|| {
            let answer = self.get(&format!("manifests/{name}"), &ACCEPTED.join(", "))?;
            let answer = asked.granted(answer, &[StatusCode::OK])?;
            let told = answer.headers().get(CONTENT_DIGEST).and_then(|told| told.to_str().ok());
            let told = told.filter(|told| told.starts_with("sha256:")).map(str::to_owned);
            Ok((read_document(answer, &asked)?, told))
        })?;
        let document = Document::parse(bytes)?;
        // Of schema 1 only what was signed counts: its digest is that of the manifest.
        let document = legacy::signed_payload(&document).map_or(Ok(document), Document::parse)?;
        let own = document.digest();
        let wanted = if name.contains(':') { Some(name) } else { told };
        match wanted {
            Some(wanted) if wanted != own.to_string() => {
                let message = format!("{} gave another manifest than {wanted}: {own}", self.host());
                Err(Error::new(ErrorKind::Mismatch, message)
                    .remedy("the registry or the way to it is broken"))
            }
            _ => Ok(document),
        }
    }

    /// What the repository has that describes the image `digest`: the tags that cosign gives to signatures and the
    /// like, and the digests of referrers, each behind what it is. A registry without the API for referrers is asked
    /// for the tag that has them there.
    ///
    /// # Errors
    /// `Io` where the registry does not tell, `Unavailable` where it may later, `Malformed` for what is no list.
    pub fn describing(&self, digest: &Digest) -> Result<Vec<(&'static str, String)>> {
        let tag = digest.as_tag();
        let names = DESCRIBING_TAGS.map(|(end, what)| (what, format!("{tag}{end}")));
        let referrers = || match self.referrer_list(&format!("referrers/{digest}"), &tag)? {
            None => self.referrer_list(&format!("manifests/{tag}"), &tag),
            listed => Ok(listed),
        };
        // Most images have none of it: all is asked at once, for it takes as long as the answers are on their way.
        let (are_there, referrers) = thread::scope(|scope| {
            let asked = names.each_ref().map(|(_, name)| scope.spawn(|| self.has_manifest(name)));
            let referrers = referrers();
            (asked.map(|asked| asked.join().unwrap_or_else(|_| Err(stopped()))), referrers)
        });
        let mut found = Vec::new();
        for (named, is_there) in names.into_iter().zip(are_there) {
            if is_there? {
                found.push(named);
            }
        }
        let Some((list, is_part)) = referrers? else { return Ok(found) };
        let count = list.len().min(limits::REFERRERS);
        found.extend(list[..count].iter().map(|referrer| ("referrer", referrer.digest.to_string())));
        if is_part || count < list.len() {
            found.push(("every referrer", format!("beyond the first {count}")));
        }
        Ok(found)
    }

    fn has_manifest(&self, name: &str) -> Result<bool> {
        let asked = Asked { what: "manifest", name, repository: self };
        let accepted = ACCEPTED.join(", ");
        self.insistently(|| {
            let request = |http: &Client, url| http.head(url).header(ACCEPT, &accepted);
            let answer = self.ask(Right::Pull, &format!("manifests/{name}"), &request)?;
            let answer = asked.granted(answer, &[StatusCode::OK, StatusCode::NOT_FOUND])?;
            Ok(answer.status() == StatusCode::OK)
        })
    }

    /// Whether the repository has the blob `digest`, as far as it tells.
    #[must_use]
    pub fn has_blob(&self, digest: &Digest) -> bool {
        let name = digest.to_string();
        let asked = Asked { what: "blob", name: &name, repository: self };
        let there = self.insistently(|| {
            let answer = self.ask(Right::Pull, &format!("blobs/{name}"), &|http, url| http.head(url))?;
            let answer = asked.granted(answer, &[StatusCode::OK, StatusCode::NOT_FOUND])?;
            Ok(answer.status() == StatusCode::OK)
        });
        there.unwrap_or(false)
    }

    /// The manifests of the index at `path`, which is about `name`, and whether there are more in another part;
    /// nothing where there is no such index.
    fn referrer_list(&self, path: &str, name: &str) -> Result<Option<(Vec<Descriptor>, bool)>> {
        let asked = Asked { what: "list of referrers", name, repository: self };
        let found = self.insistently(|| {
            let answer = self.get(path, media_type::OCI_INDEX)?;
            let answer = asked.granted(answer, &[StatusCode::OK, StatusCode::NOT_FOUND])?;
            if answer.status() == StatusCode::NOT_FOUND {
                return Ok(None);
            }
            let is_part = answer.headers().contains_key(LINK);
            Ok(Some((read_document(answer, &asked)?, is_part)))
        })?;
        let Some((bytes, is_part)) = found else { return Ok(None) };
        Ok(Document::parse(bytes)?.manifests()?.map(|list| (list, is_part)))
    }

    /// Asks for the document at `path`.
    fn get(&self, path: &str, accepted: &str) -> Attempted<Response> {
        self.ask(Right::Pull, path, &|http, url| http.get(url).header(ACCEPT, accepted))
    }

    /// Reads the blob `digest`.
    ///
    /// # Errors
    /// `Io` where the registry does not give it, `Unavailable` where it may later.
    pub fn blob(&self, digest: &Digest) -> Result<impl Read + use<'_>> {
        let mut download =
            Download { repository: self, digest: digest.clone(), answer: None, at: 0, left: ATTEMPTS };
        download.answer = Some(download.open()?);
        Ok(download)
    }

    /// Lets the registry have the new `blobs`, several at once; how many bytes were sent.
    ///
    /// # Errors
    /// Those of [`Repository::push_blob`]; then all are done with, in one way or the other.
    pub fn push_new(&self, blobs: &[(&Digest, &[u8])]) -> Result<u64> {
        let mut sent = 0;
        for some in blobs.chunks(AT_ONCE) {
            let pushed: Vec<Result<u64>> = thread::scope(|scope| {
                let push = |&(digest, bytes): &(_, _)| self.push_blob(digest, &Outgoing::Held(bytes));
                let pushing: Vec<_> = some.iter().map(|blob| scope.spawn(move || push(blob))).collect();
                pushing.into_iter().map(|one| one.join().unwrap_or_else(|_| Err(stopped()))).collect()
            });
            for count in pushed {
                sent += count?;
            }
        }
        Ok(sent)
    }

    /// Lets the registry have the `blob` with the digest, where it is asked for; how many bytes were sent.
    ///
    /// # Errors
    /// `Io` where the registry does not take it, `Unavailable` where it may later; those of reading the blob.
    pub fn push_blob(&self, digest: &Digest, blob: &Outgoing<'_>) -> Result<u64> {
        let name = digest.to_string();
        let asked = Asked { what: "blob", name: &name, repository: self };
        let is_there = self.insistently(|| {
            let there = self.ask(Right::Push, &format!("blobs/{name}"), &|http, url| http.head(url))?;
            let there = asked.granted(there, &[StatusCode::OK, StatusCode::NOT_FOUND])?;
            Ok(there.status() == StatusCode::OK)
        })?;
        if is_there {
            return Ok(0);
        }
        self.insistently(|| {
            let mount = self.mounted.as_ref().map(|from| [("mount", &name), ("from", from)]);
            let begin = |words: &[(&str, &String)]| {
                let request = |http: &Client, url| http.post(url).query(words).body("");
                self.ask(Right::Push, "blobs/uploads/", &request)
            };
            let mut begun = begin(mount.as_ref().map_or(&[], |words| &words[..]))?;
            // Whoever may not read the other repository, or cannot mount, may send it all the same.
            if mount.is_some() && [401, 403, 404, 405].contains(&begun.status().as_u16()) {
                begun = begin(&[])?;
            }
            let begun = asked.granted(begun, &[StatusCode::CREATED, StatusCode::ACCEPTED])?;
            if begun.status() == StatusCode::CREATED {
                return Ok(0);
            }
            let place = begun.headers().get(LOCATION).and_then(|place| place.to_str().ok());
            let place = place.and_then(|place| begun.url().join(place).ok()).ok_or_else(|| {
                Error::new(ErrorKind::Io, format!("{} does not say where blobs are sent to", self.host()))
            })?;
            drop(begun);
            let mut place = place;
            place.query_pairs_mut().append_pair("digest", &name);
            self.send_blob(&asked, place, blob)
        })
    }

    /// Sends the `blob` to `place`; how many bytes it has.
    fn send_blob(&self, asked: &Asked<'_>, place: Url, blob: &Outgoing<'_>) -> Attempted<u64> {
        let size = match blob {
            Outgoing::Held(bytes) => bytes.len() as u64,
            Outgoing::Streamed(size, _) => *size,
        };
        let patience = ANSWER + Duration::from_secs(size / SLOWEST);
        let request = self.http.put(place.clone()).timeout(patience);
        let request = request.header(CONTENT_TYPE, "application/octet-stream");
        let grant = self.granted().get(&Right::Push).cloned();
        let request = self.with_grant(request, grant.as_ref(), &place);
        let (answer, count) = match blob {
            Outgoing::Held(bytes) => (request.body(bytes.to_vec()).send(), size),
            Outgoing::Streamed(_, read) => {
                let (sender, receiver) = mpsc::sync_channel(WAITING);
                let body = Body::sized(Upload { receiver, block: io::Cursor::default() }, size);
                let request = request.body(body);
                let mut bytes = read()?;
                thread::scope(|scope| {
                    let sending = scope.spawn(|| request.send());
                    let read = pump(&mut bytes, &sender);
                    drop(sender);
                    let sent = sending.join().map_err(|_| stopped())?;
                    Ok::<_, Error>((sent, read?))
                })?
            }
        };
        let answer = answer.map_err(|error| broken(self.host(), &error))?;
        let is_over = answer.status() == StatusCode::UNAUTHORIZED && grant.is_some();
        match asked.granted(answer, &[StatusCode::CREATED]) {
            // What was granted is over since the place was asked for: whoever asks again gets a new grant.
            Err(Attempt::Failed(error)) if is_over => Err(Attempt::Again(error, Some(Duration::ZERO))),
            answer => answer.map(|_| count),
        }
    }

    /// Lets the registry have a manifest: under the name's tag, or under its digest alone; how many bytes were sent.
    ///
    /// # Errors
    /// `Io` where the registry does not take it, `Unavailable` where it may later.
    pub fn push_manifest(&self, manifest: &Document, is_tagged: bool) -> Result<u64> {
        let digest = manifest.digest().to_string();
        let name = self.name.tag().filter(|_| is_tagged).unwrap_or(&digest);
        let media_type = HeaderValue::from_str(manifest.media_type())
            .map_err(|_| Error::new(ErrorKind::Malformed, "the manifest's media type is none"))?;
        let asked = Asked { what: "manifest", name, repository: self };
        self.insistently(|| {
            let request = |http: &Client, url| {
                http.put(url).header(CONTENT_TYPE, media_type.clone()).body(manifest.bytes.clone())
            };
            let answer = self.ask(Right::Push, &format!("manifests/{name}"), &request)?;
            // The specification has 201 alone, and not every registry keeps to it.
            let taken = [StatusCode::CREATED, StatusCode::OK, StatusCode::ACCEPTED];
            let answer = asked.granted(answer, &taken)?;
            match answer.headers().get(CONTENT_DIGEST).map(|told| told.to_str().unwrap_or_default()) {
                Some(told) if told.starts_with("sha256:") && told != digest => {
                    let message = format!("{} says that it took {told}, and was sent {digest}", self.host());
                    Err(Error::new(ErrorKind::Mismatch, message).into())
                }
                _ => Ok(manifest.bytes.len() as u64),
            }
        })
    }

    /// Tries until it is done, or no more attempt helps.
    fn insistently<T>(&self, attempt: impl Fn() -> Attempted<T>) -> Result<T> {
        let mut pause = PAUSE;
        for left in (0..ATTEMPTS).rev() {
            match attempt() {
                Ok(done) => return Ok(done),
                Err(Attempt::Failed(error)) => return Err(error),
                Err(Attempt::Again(error, wanted)) => {
                    let wanted = wanted.unwrap_or(pause);
                    if left == 0 || wanted > LONGEST_PAUSE {
                        return Err(error);
                    }
                    thread::sleep(wanted);
                }
            }
            pause *= 2;
        }
        Err(Error::new(ErrorKind::Unavailable, format!("{} does not answer", self.host())))
    }

    /// Asks for what is at `path` in the repository, and once more with credentials where the registry wants them.
    fn ask(
        &self,
        right: Right,
        path: &str,
        request: &dyn Fn(&Client, Url) -> RequestBuilder,
    ) -> Attempted<Response> {
        self.ask_at(right, &format!("/v2/{}/{path}", self.name.repository()), request)
    }

    /// The same for what is at `path` in the registry.
    fn ask_at(
        &self,
        right: Right,
        path: &str,
        request: &dyn Fn(&Client, Url) -> RequestBuilder,
    ) -> Attempted<Response> {
        let url = self.base()?.join(path);
        let url = url.map_err(|error| Error::new(ErrorKind::Usage, format!("{}: {error}", self.name())))?;
        let send = |grant: Option<&HeaderValue>| {
            let request = self.with_grant(request(&self.http, url.clone()), grant, &url);
            request.send().map_err(|error| broken(self.host(), &error))
        };
        let known = self.granted().get(&right).cloned();
        let answer = send(known.as_ref())?;
        if answer.status() != StatusCode::UNAUTHORIZED {
            return Ok(answer);
        }
        // Of several who ask at once the first one finds out for all.
        let mut granted = self.granted();
        if granted.get(&right) == known.as_ref() {
            let Some(grant) = self.grant(right, answer.headers())? else { return Ok(answer) };
            granted.insert(right, grant);
        }
        let grant = granted.get(&right).cloned();
        drop(granted);
        send(grant.as_ref())
    }

    fn granted(&self) -> MutexGuard<'_, HashMap<Right, HeaderValue>> {
        self.granted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The request, with what the registry wants to hear where it goes to the registry.
    fn with_grant(&self, request: RequestBuilder, grant: Option<&HeaderValue>, url: &Url) -> RequestBuilder {
        let is_own = self.base.get().is_some_and(|base| base.origin() == url.origin());
        match grant.filter(|_| is_own) {
            Some(grant) => request.header(AUTHORIZATION, grant.clone()),
            None => request,
        }
    }

    /// What a registry wants to hear that answered with these `headers`; nothing where there is nothing to say.
    fn grant(&self, right: Right, headers: &HeaderMap) -> Attempted<Option<HeaderValue>> {
        let challenges = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|it| it.to_str().ok());
        let repository = self.name.repository();
        let mut scopes = match right {
            Right::Pull => vec![format!("repository:{repository}:pull")],
            Right::Push => vec![format!("repository:{repository}:pull,push")],
            Right::List => vec!["registry:catalog:*".to_owned()],
        };
        if right == Right::Push {
            scopes.extend(self.mounted.iter().map(|from| format!("repository:{from}:pull")));
        }
        let base = self.base()?;
        access::answer(&self.http, &base, challenges, &scopes, &self.credential)
    }

    /// Where the registry is. One that may speak HTTP is asked whether it speaks HTTPS.
    fn base(&self) -> Attempted<Url> {
        let at = |scheme: &str| {
            Url::parse(&format!("{scheme}://{}/v2/", self.host()))
                .map_err(|error| Error::new(ErrorKind::Usage, format!("{}: {error}", self.host())))
        };
        if let Some(base) = self.base.get() {
            return Ok(base.clone());
        }
        let (secure, plain) = (at("https")?, at("http")?);
        let answer = |url: &Url| self.http.get(url.clone()).send();
        let base = match self.may_be_plain.then(|| answer(&secure)) {
            Some(Err(error)) if !is_distrust(&error) => {
                if answer(&plain).is_err() {
                    return Ok(secure); // it does not answer at all, and is asked again
                }
                plain
            }
            _ => secure,
        };
        Ok(self.base.get_or_init(|| base).clone())
    }
}

/// That a thread came to no end.
fn stopped() -> Error {
    Error::new(ErrorKind::Io, "asking the registry stopped")
}

/// All of a document that the registry gives.
fn read_document(answer: Response, asked: &Asked<'_>) -> Attempted<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = answer.take(limits::DOCUMENT_BYTES + 1).read_to_end(&mut bytes);
    read.map_err(|error| Attempt::Again(asked.broke_off(&error), None))?;
    if bytes.len() as u64 > limits::DOCUMENT_BYTES {
        let message =
            format!("the {} {} has more than {} bytes", asked.what, asked.name, limits::DOCUMENT_BYTES);
        return Err(Error::new(ErrorKind::Malformed, message).into());
    }
    Ok(bytes)
}

/// What came of an attempt.
type Attempted<T> = std::result::Result<T, Attempt>;

/// Why an attempt failed.
enum Attempt {
    /// Another one would fail, too.
    Failed(Error),
    /// Another one may not, after the pause that the registry asks for.
    Again(Error, Option<Duration>),
}

impl From<Error> for Attempt {
    fn from(error: Error) -> Self {
        if error.kind() == ErrorKind::Unavailable { Self::Again(error, None) } else { Self::Failed(error) }
    }
}

/// The pause that the registry asks for, in seconds or up to a time.
fn wanted_pause(headers: &HeaderMap) -> Option<Duration> {
    let wanted = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = wanted.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let time = httpdate::parse_http_date(wanted).ok()?;
    Some(time.duration_since(SystemTime::now()).unwrap_or_default())
}

/// Gives everything that `bytes` has to whoever sends it; how much.
fn pump(bytes: &mut dyn Read, sender: &SyncSender<io::Result<Vec<u8>>>) -> Result<u64> {
    let mut sent = 0;
    loop {
        let mut block = vec![0; BLOCK];
        match bytes.read(&mut block) {
            Ok(0) => return Ok(sent),
            Ok(count) => {
                block.truncate(count);
                sent += count as u64;
                if sender.send(Ok(block)).is_err() {
                    return Ok(sent); // whoever sends has failed, and says why
                }
            }
            Err(error) => {
                let _ = sender.send(Err(io::Error::new(error.kind(), error.to_string())));
                return Err(Error::io("cannot read", error));
            }
        }
    }
}

/// A blob that is to be sent.
pub enum Outgoing<'r> {
    /// It is in memory.
    Held(&'r [u8]),
    /// It has so many bytes, and is read anew for each attempt.
    Streamed(u64, &'r dyn Fn() -> Result<Box<dyn Read + 'r>>),
}

/// A blob that is streamed as it goes out.
struct Upload {
    receiver: Receiver<io::Result<Vec<u8>>>,
    block: io::Cursor<Vec<u8>>,
}

impl Read for Upload {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.block.read(buffer)? {
                0 if !buffer.is_empty() => match self.receiver.recv() {
                    Ok(block) => self.block = io::Cursor::new(block?),
                    Err(_) => return Ok(0),
                },
                count => return Ok(count),
            }
        }
    }
}

/// A blob as it comes in. Where it breaks off, the rest is asked for.
struct Download<'a> {
    repository: &'a Repository,
    digest: Digest,
    answer: Option<Response>,
    /// Bytes that have come.
    at: u64,
    /// How often it may break off.
    left: usize,
}

impl Download<'_> {
    /// The answer that holds the bytes behind those that have come.
    fn open(&self) -> Result<Response> {
        let name = self.digest.to_string();
        let asked = Asked { what: "blob", name: &name, repository: self.repository };
        self.repository.insistently(|| {
            let rest = format!("bytes={}-", self.at);
            let request = |http: &Client, url| match self.at {
                0 => http.get(url),
                _ => http.get(url).header(RANGE, &rest),
            };
            let answer = self.repository.ask(Right::Pull, &format!("blobs/{name}"), &request)?;
            let mut answer = asked.granted(answer, &[StatusCode::OK, StatusCode::PARTIAL_CONTENT])?;
            if answer.status() == StatusCode::OK && self.at > 0 {
                let passed = io::copy(&mut (&mut answer).take(self.at), &mut io::sink());
                passed.map_err(|error| Attempt::Again(asked.broke_off(&error), None))?;
            }
            Ok(answer)
        })
    }
}

impl Read for Download<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let Some(answer) = &mut self.answer else { return Ok(0) };
            match answer.read(buffer) {
                Ok(count) => {
                    self.at += count as u64;
                    return Ok(count);
                }
                Err(error) => {
                    let name = self.digest.to_string();
                    let asked = Asked { what: "blob", name: &name, repository: self.repository };
                    self.answer = None;
                    self.left -= 1;
                    if self.left == 0 {
                        return Err(io::Error::other(asked.broke_off(&error)));
                    }
                    self.answer = Some(self.open().map_err(io::Error::other)?);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_local() {
        for local in ["localhost", "localhost:5000", "127.0.0.1:5000", "127.9.9.9", "[::1]:5000"] {
            assert!(is_local(local), "{local}");
        }
        for other in [
            "127.evil.example",
            "127.0.0.1.example:5000",
            "127.1",
            "localhost.example",
            "registry.example:5000",
            "128.0.0.1",
            "docker.io",
        ] {
            assert!(!is_local(other), "{other}");
        }
    }
}
