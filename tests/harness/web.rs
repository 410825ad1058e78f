//! A registry of a few lines, which does what it is told: answers late, wrongly, or without end.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use super::image::{Layout, digest};
use super::read;

/// What was asked.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// How many were before it, and this one.
    pub number: usize,
    pub method: String,
    pub path: String,
    /// By their names in lower case.
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

impl Request {
    /// What all requests have in common that a client makes in one attempt: the path, or that something is uploaded to
    /// the repository.
    pub fn attempt(&self) -> &str {
        const UPLOADS: &str = "/blobs/uploads/";
        let end = self.path.find(UPLOADS).map_or(self.path.len(), |at| at + UPLOADS.len());
        &self.path[..end]
    }
}

/// What is answered.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Bytes that are announced, where that is a lie.
    announced: Option<usize>,
    is_endless: bool,
    /// All of it, where the body is a part.
    all: Option<Vec<u8>>,
}

impl Reply {
    pub fn new(status: u16, body: &[u8]) -> Self {
        Self { status, body: body.to_vec(), ..Self::default() }
    }

    /// A refusal as registries have it.
    pub fn error(status: u16, code: &str) -> Self {
        let body =
            serde_json::json!({ "errors": [{ "code": code, "message": format!("the test said {code}") }] });
        Self::new(status, body.to_string().as_bytes())
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.retain(|(other, _)| other != name);
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// All of the content, whatever part was asked for.
    pub fn whole(mut self) -> Self {
        if let Some(all) = self.all.take() {
            (self.status, self.body) = (200, all);
        }
        self
    }

    /// The connection is gone without an answer.
    pub fn none() -> Self {
        Self::default()
    }

    /// The connection is gone after so many bytes.
    pub fn cut_at(mut self, len: usize) -> Self {
        self.announced = Some(self.body.len());
        self.body.truncate(len);
        self
    }

    /// More bytes are announced than there are.
    pub fn cut_short(mut self, more: usize) -> Self {
        self.announced = Some(self.body.len() + more);
        self
    }

    /// Zeros come behind the content, until nobody reads them.
    pub fn endless(mut self) -> Self {
        self.is_endless = true;
        self
    }
}

type Twist = Arc<dyn Fn(&Request, Reply) -> Reply + Send + Sync>;

#[derive(Default)]
struct Inside {
    blobs: BTreeMap<String, Vec<u8>>,
    /// By repository and tag or digest: media type and bytes.
    manifests: BTreeMap<(String, String), (String, Vec<u8>)>,
    requests: Vec<Request>,
    sent: u64,
    /// How many names a page has; without, all.
    page: Option<usize>,
    twist: Option<Twist>,
}

/// A server on a free port of this machine.
pub struct Web {
    pub address: String,
    inside: Arc<Mutex<Inside>>,
}

impl Default for Web {
    fn default() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound").to_string();
        let inside = Arc::new(Mutex::new(Inside::default()));
        let served = Arc::clone(&inside);
        // The threads end with the test.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let inside = Arc::clone(&served);
                std::thread::spawn(move || serve(stream, &inside));
            }
        });
        Self { address, inside }
    }
}

impl Web {
    /// With the first image of the layout as `team/image:v1`.
    pub fn of_layout(layout: &Layout) -> Self {
        let web = Self::default();
        web.put_layout(layout, "team/image");
        web
    }

    /// The first image of the layout becomes `repository:v1`.
    pub fn put_layout(&self, layout: &Layout, repository: &str) {
        for blob in std::fs::read_dir(layout.0.join("blobs/sha256")).expect("blobs").flatten() {
            self.put_blob(&read(&blob.path()));
        }
        let index: serde_json::Value =
            serde_json::from_slice(&read(&layout.0.join("index.json"))).expect("JSON");
        let text = |key: &str| index["manifests"][0][key].as_str().expect("text").to_owned();
        let manifest = read(&layout.0.join("blobs/sha256").join(&text("digest")[7..]));
        self.put_manifest(repository, "v1", &text("mediaType"), &manifest);
    }

    pub fn put_blob(&self, bytes: &[u8]) {
        self.inside.lock().expect("whole").blobs.insert(digest(bytes), bytes.to_vec());
    }

    pub fn put_manifest(&self, repository: &str, tag: &str, kind: &str, bytes: &[u8]) {
        self.inside.lock().expect("whole").put_manifest(repository, tag, kind, bytes);
    }

    /// From now on this decides what is answered.
    pub fn twist(&self, twist: impl Fn(&Request, Reply) -> Reply + Send + Sync + 'static) {
        self.inside.lock().expect("whole").twist = Some(Arc::new(twist));
    }

    /// Lists come in pages of so many names.
    pub fn pages_of(&self, names: usize) {
        self.inside.lock().expect("whole").page = Some(names);
    }

    pub fn requests(&self) -> Vec<Request> {
        self.inside.lock().expect("whole").requests.clone()
    }

    /// Requests whose path ends so.
    pub fn count(&self, end: &str) -> usize {
        self.requests().iter().filter(|request| request.path.ends_with(end)).count()
    }

    pub fn ranges(&self) -> Vec<String> {
        self.requests().iter().filter_map(|request| request.headers.get("range").cloned()).collect()
    }

    /// Bytes of all contents so far.
    pub fn sent(&self) -> u64 {
        self.inside.lock().expect("whole").sent
    }

    pub fn has_tag(&self, repository: &str, tag: &str) -> bool {
        self.inside.lock().expect("whole").manifests.contains_key(&(repository.to_owned(), tag.to_owned()))
    }
}

impl Inside {
    fn put_manifest(&mut self, repository: &str, tag: &str, kind: &str, bytes: &[u8]) {
        for name in [tag.to_owned(), digest(bytes)] {
            self.manifests.insert((repository.to_owned(), name), (kind.to_owned(), bytes.to_vec()));
        }
    }

    /// What a sound registry would answer.
    fn answer(&mut self, request: &Request) -> Reply {
        let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
        let Some(rest) = path.strip_prefix("/v2/") else { return Reply::error(404, "NAME_UNKNOWN") };
        if rest == "_catalog" {
            let all = self.manifests.keys().map(|(repository, _)| repository.as_str()).collect();
            return self.page(path, query, "repositories", &all);
        }
        if let Some(repository) = rest.strip_suffix("/tags/list") {
            let of_it =
                self.manifests.keys().filter(|(other, name)| other == repository && !name.contains(':'));
            return self.page(path, query, "tags", &of_it.map(|(_, name)| name.as_str()).collect());
        }
        if let Some((repository, name)) = rest.split_once("/manifests/") {
            if request.method == "PUT" {
                return Reply::new(201, b"").header("Location", path);
            }
            let found = self.manifests.get(&(repository.to_owned(), name.to_owned()));
            let Some((kind, bytes)) = found else { return Reply::error(404, "MANIFEST_UNKNOWN") };
            return Reply::new(200, bytes)
                .header("Content-Type", kind)
                .header("Docker-Content-Digest", &digest(bytes));
        }
        if rest.contains("/referrers/") {
            return Reply::new(404, b"404 page not found\n");
        }
        match (rest.split_once("/blobs/"), request.method.as_str()) {
            (_, "POST") => Reply::new(202, b"").header("Location", &format!("{path}1?state=x")),
            (Some(_), "PUT") => {
                let told = query.rsplit("digest=").next().unwrap_or_default().replace("%3A", ":");
                match digest(&request.body) {
                    found if found == told => Reply::new(201, b"").header("Location", path),
                    _ => Reply::error(400, "DIGEST_INVALID"),
                }
            }
            (Some((_, name)), _) => match self.blobs.get(name) {
                None => Reply::error(404, "BLOB_UNKNOWN"),
                Some(bytes) => {
                    let range = request.headers.get("range").and_then(|range| range.strip_prefix("bytes="));
                    match range.and_then(|range| range.trim_end_matches('-').parse::<usize>().ok()) {
                        Some(from) => Reply {
                            all: Some(bytes.clone()),
                            ..Reply::new(206, &bytes[from.min(bytes.len())..])
                        },
                        None => Reply::new(200, bytes),
                    }
                }
            },
            _ => Reply::new(200, b"{}"),
        }
    }

    /// A page of a list, and where the next one is.
    fn page(&self, path: &str, query: &str, key: &str, all: &BTreeSet<&str>) -> Reply {
        let last = query.split('&').find_map(|word| word.strip_prefix("last=")).unwrap_or_default();
        let rest: Vec<&str> = all.iter().copied().filter(|name| *name > last).collect();
        let page = &rest[..rest.len().min(self.page.unwrap_or(usize::MAX))];
        let reply = Reply::new(200, serde_json::json!({ key: page }).to_string().as_bytes());
        match page.last() {
            Some(last) if page.len() < rest.len() => {
                reply.header("Link", &format!("<{path}?n=1000&last={last}>; rel=\"next\""))
            }
            _ => reply,
        }
    }

    /// Keeps what was sent, where the answer says that it was taken.
    fn keep(&mut self, request: &Request) {
        let rest = request.path.strip_prefix("/v2/").unwrap_or_default();
        if let Some((repository, name)) = rest.split_once("/manifests/") {
            let kind = request.headers.get("content-type").cloned().unwrap_or_default();
            self.put_manifest(repository, name, &kind, &request.body);
        } else {
            self.blobs.insert(digest(&request.body), request.body.clone());
        }
    }
}

fn serve(stream: TcpStream, inside: &Mutex<Inside>) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    // A client that speaks TLS first is none of ours.
    if reader.fill_buf().ok()?.first() == Some(&0x16) {
        return None;
    }
    let mut request = Request::default();
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split(' ');
    (request.method, request.path) = (words.next()?.to_owned(), words.next()?.to_owned());
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        request.headers.insert(name.to_lowercase(), value.trim().to_owned());
    }
    let len = request.headers.get("content-length").and_then(|len| len.parse().ok()).unwrap_or(0);
    request.body = vec![0; len];
    reader.read_exact(&mut request.body).ok()?;

    let reply = {
        let mut inside = inside.lock().expect("whole");
        request.number = inside.requests.len() + 1;
        inside.requests.push(request.clone());
        let reply = inside.answer(&request);
        let twist = inside.twist.clone();
        let reply = twist.map_or_else(|| reply.clone(), |twist| twist(&request, reply.clone()));
        if request.method == "PUT" && (200..300).contains(&reply.status) {
            inside.keep(&request);
        }
        inside.sent += reply.body.len() as u64;
        reply
    };
    send(stream, &request, &reply)
}

fn send(mut stream: TcpStream, request: &Request, reply: &Reply) -> Option<()> {
    if reply.status == 0 {
        return None;
    }
    let mut head = format!("HTTP/1.1 {} Test\r\nConnection: close\r\n", reply.status);
    for (name, value) in &reply.headers {
        head += &format!("{name}: {value}\r\n");
    }
    if !reply.is_endless {
        head += &format!("Content-Length: {}\r\n", reply.announced.unwrap_or(reply.body.len()));
    }
    stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(b"\r\n")).ok()?;
    if request.method != "HEAD" {
        stream.write_all(&reply.body).ok()?;
    }
    if reply.is_endless {
        loop {
            stream.write_all(&[0; 64 << 10]).ok()?;
        }
    }
    Some(())
}
