//! Images in registries through the command: real ones, open and closed and over TLS, and ones that do ill.

mod harness;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use harness::image::{INDEX, Layout, PROGRAM, Registry, digest, files, image};
use harness::web::{Reply, Request, Web};
use harness::{Ran, is_root, need, read, skip, temp_dir, vsyspatch};
use serde_json::json;

fn tool(words: &[&str]) -> Ran {
    Ran::of(alone(&temp_dir().path().join("home")).args(words))
}

/// The command as somebody who is logged in nowhere.
fn alone(home: &Path) -> Command {
    let mut command = vsyspatch();
    command.env("HOME", home).env("XDG_RUNTIME_DIR", home.join("run"));
    for name in ["DOCKER_CONFIG", "REGISTRY_AUTH_FILE", "XDG_CONFIG_HOME"] {
        command.env_remove(name);
    }
    command
}

fn skopeo(words: &[&str]) -> Ran {
    Ran::of(Command::new("skopeo").args(words)).expect(0)
}

/// An image with a program to patch.
fn sample(dir: &Path) -> String {
    image(dir, &[files(&[("bin/program", PROGRAM)])])
}

// --- registries ---

#[test]
fn the_reference_of_the_new_image_alone_goes_to_stdout() {
    if !["docker-registry", "skopeo"].into_iter().all(need) {
        return;
    }
    let dir = temp_dir();
    let registry = Registry::start(dir.path());
    let name = |repository: &str| format!("docker://{}/{repository}:v1", registry.address);
    skopeo(&["copy", "-q", "--dest-tls-verify=false", &sample(dir.path()), &name("old")]);
    let digestfile = dir.path().join("digest");
    let digestfile = digestfile.to_str().expect("text");

    let patched = tool(&["patch", &name("old"), &name("new"), "--digestfile", digestfile]).expect(0);
    let (image, new) = patched.stdout.trim_end().split_once('@').expect("a digest");
    assert_eq!((image, patched.stdout.lines().count()), (format!("{}/new", registry.address).as_str(), 1));
    assert!(patched.stderr.contains("patched") && patched.stderr.contains("bytes sent"), "{patched}");
    assert_eq!(String::from_utf8(read(digestfile.as_ref())).expect("text"), new);
    let chained = format!("docker://{}", patched.stdout.trim_end());
    tool(&["verify", &chained, "--against", &name("old")]).expect(0);

    let quiet = tool(&["patch", "-q", &name("old"), &name("new")]).expect(0);
    assert_eq!((quiet.stdout, quiet.stderr.as_str()), (patched.stdout.clone(), ""));
    let report = tool(&["patch", "--json", &name("old"), &name("new")]).expect(0).report();
    assert_eq!(report["targets"][0]["image"]["reference"], patched.stdout.trim_end());

    // What is clean is not sent, and has no new name.
    fs::remove_file(digestfile).expect("removed");
    let again = tool(&["patch", &chained, &name("third"), "--digestfile", digestfile]).expect(0);
    assert_eq!(again.stdout, "");
    assert!(again.stderr.contains("patched already") && !Path::new(digestfile).exists(), "{again}");

    let reverted = tool(&["revert", &chained, &name("back"), "--digestfile", digestfile]).expect(0);
    let raw = skopeo(&["inspect", "--raw", "--tls-verify=false", &name("old")]).stdout;
    let original = digest(raw.as_bytes());
    assert_eq!(reverted.stdout, format!("{}/back@{original}\n", registry.address));
    assert_eq!(String::from_utf8(read(digestfile.as_ref())).expect("text"), original);

    // To other places the text goes to stdout, as ever.
    let archive = format!("oci-archive:{}", dir.path().join("new.tar").display());
    let written = tool(&["patch", &name("old"), &archive, "--digestfile", digestfile]).expect(0);
    let digest = String::from_utf8(read(digestfile.as_ref())).expect("text");
    assert!(written.stdout.contains(&digest) && written.stdout.contains("patched"), "{written}");
    let program = dir.path().join("program");
    fs::write(&program, PROGRAM).expect("written");
    let file = tool(&["patch", "-i", program.to_str().expect("text"), "--digestfile", digestfile]).expect(2);
    assert!(file.stderr.contains("--digestfile is for images") && read(&program) == PROGRAM, "{file}");
}

#[test]
fn credentials_are_found_where_docker_and_podman_leave_them() {
    if !["docker-registry", "skopeo"].into_iter().all(need) {
        return;
    }
    let dir = temp_dir();
    let registry = Registry::closed(dir.path());
    let name = format!("docker://{}/closed:v1", registry.address);
    skopeo(&[
        "copy",
        "-q",
        "--dest-tls-verify=false",
        "--dest-creds=user:secret",
        &sample(dir.path()),
        &name,
    ]);

    let home = dir.path().join("home");
    let scan = || {
        let mut command = alone(&home);
        command.args(["scan", &name]);
        command
    };
    let nobody = Ran::of(&mut scan()).expect(2);
    assert!(nobody.stderr.contains("wants to know who asks") && nobody.stderr.contains("log in"), "{nobody}");
    let wrong = Ran::of(scan().arg("--creds=user:wrong")).expect(2);
    assert!(wrong.stderr.contains("does not accept the credentials of user"), "{wrong}");
    assert!(!wrong.stderr.contains("wrong"), "a password is never shown: {wrong}");
    Ran::of(scan().arg("--creds=user:secret")).expect(1);

    // dXNlcjpzZWNyZXQ= is user:secret
    let login = json!({ "auths": { registry.address.as_str(): { "auth": "dXNlcjpzZWNyZXQ=" } } }).to_string();
    let place = |path: &str, content: &str| {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().expect("a directory")).expect("made");
        fs::write(&path, content).expect("written");
        path
    };
    Ran::of(scan().arg("--authfile").arg(place("authfile", &login))).expect(1);
    let docker = place("docker/config.json", &login);
    Ran::of(scan().env("DOCKER_CONFIG", docker.parent().expect("a directory"))).expect(1);
    place("run/containers/auth.json", &login);
    Ran::of(scan().env("XDG_RUNTIME_DIR", dir.path().join("run"))).expect(1);

    let helpers = json!({ "credHelpers": { registry.address.as_str(): "test" } }).to_string();
    let helper = place("bin/docker-credential-test", "");
    // Another program writes it: one that a test has open for writing, and so its children for a moment, cannot be run.
    let install = |script: &str| {
        let mut install = Command::new("install");
        Ran::of(install.args(["-m", "755"]).arg(place("script", script)).arg(&helper)).expect(0);
    };
    let path = format!(
        "{}:{}",
        helper.parent().expect("a directory").display(),
        std::env::var("PATH").expect("text")
    );
    let config = place("helper/config.json", &helpers);
    let with_helper = |script: &str| {
        install(script);
        Ran::of(scan().env("PATH", &path).env("DOCKER_CONFIG", config.parent().expect("a directory")))
    };
    let answer = r#"{"ServerURL":"x","Username":"user","Secret":"secret"}"#;
    with_helper(&format!("#!/bin/sh\nread server\necho '{answer}'\n")).expect(1);
    // As docker login leaves it where a store of the system keeps the password.
    let store = json!({ "auths": { registry.address.as_str(): {} }, "credsStore": "test" }).to_string();
    place("helper/config.json", &store);
    with_helper(&format!("#!/bin/sh\nread server\n[ $server = {} ] && echo '{answer}'\n", registry.address))
        .expect(1);
    place("helper/config.json", &helpers);
    let failing = with_helper("#!/bin/sh\nread server\necho 'the keyring is locked' >&2\nexit 1\n").expect(2);
    assert!(failing.stderr.contains("the keyring is locked"), "{failing}");

    let file = place("elsewhere/auth.json", &login);
    Ran::of(scan().env("REGISTRY_AUTH_FILE", file)).expect(1);
    let docker = place("other-home/.docker/config.json", &login);
    Ran::of(scan().env("HOME", docker.ancestors().nth(2).expect("the home"))).expect(1);
    let settings = place("third-home/.config/containers/auth.json", &login);
    Ran::of(scan().env("HOME", settings.ancestors().nth(3).expect("the home"))).expect(1);
    Ran::of(scan().env("XDG_CONFIG_HOME", settings.ancestors().nth(2).expect("a directory"))).expect(1);
    // Where root logs in who has no directory of the login; in a /run of its own.
    if is_root() && need("unshare") {
        let line = "mount -t tmpfs none /run && mkdir -p /run/containers/0 && cp \"$1\" /run/containers/0 && shift && exec \"$@\"";
        let mut alone = scan();
        alone.env_remove("XDG_RUNTIME_DIR");
        let mut unshare = Command::new("unshare");
        unshare
            .args(["-m", "sh", "-c", line, "sh"])
            .arg(&settings)
            .arg(alone.get_program())
            .args(alone.get_args());
        for (name, value) in alone.get_envs() {
            match value {
                Some(value) => unshare.env(name, value),
                None => unshare.env_remove(name),
            };
        }
        Ran::of(&mut unshare).expect(1);
    } else {
        skip("a /run of its own needs root");
    }
    fs::remove_file(dir.path().join("run/containers/auth.json")).expect("removed");
    Ran::of(scan().env("XDG_RUNTIME_DIR", dir.path().join("run"))).expect(2);
}

#[test]
fn a_registry_of_an_own_authority_is_trusted_where_that_is_said() {
    if !["docker-registry", "skopeo", "openssl"].into_iter().all(need) {
        return;
    }
    let dir = temp_dir();
    let (registry, authorities) = Registry::over_tls(dir.path());
    let name = |repository: &str| format!("docker://{}/{repository}:v1", registry.address);
    skopeo(&["copy", "-q", "--dest-tls-verify=false", &sample(dir.path()), &name("tls")]);

    let distrusted = tool(&["scan", &name("tls")]).expect(2);
    assert!(
        distrusted.stderr.contains("certificate") && distrusted.stderr.contains("--cert-dir"),
        "{distrusted}"
    );
    let trust = format!("--cert-dir={}", authorities.display());
    tool(&["scan", &trust, &name("tls")]).expect(1);
    tool(&["patch", &trust, &name("tls"), &name("patched")]).expect(0);
    tool(&["verify", &trust, &name("patched"), "--against", &name("tls")]).expect(0);
    tool(&["scan", "--tls-verify=false", &name("tls")]).expect(1);
}

#[test]
fn each_refusal_has_its_own_words() {
    let dir = temp_dir();
    let web = Web::of_layout(&sample_layout(dir.path()));
    let refusals = [
        ("no-such-tag", 404, "MANIFEST_UNKNOWN", "has no manifest no-such-tag", 2),
        ("no-such-name", 404, "NAME_UNKNOWN", "has no repository team/image", 2),
        ("forbidden", 403, "DENIED", "forbids this for team/image", 2),
        ("unauthorised", 401, "UNAUTHORIZED", "wants to know who asks", 2),
        ("no-name", 400, "NAME_INVALID", "for no name", 2),
        ("odd", 418, "TEAPOT", "answers 418", 2),
    ];
    web.twist(move |request, reply| {
        let refusal = refusals.iter().find(|(tag, ..)| request.path.ends_with(&format!("/manifests/{tag}")));
        refusal.map_or(reply, |(_, status, code, ..)| Reply::error(*status, code))
    });
    for (tag, _, code, words, status) in refusals {
        let ran = tool(&["scan", &format!("docker://{}/team/image:{tag}", web.address)]).expect(status);
        assert!(ran.stderr.contains(words) && ran.stderr.contains(&format!("said {code}")), "{ran}");
        assert_eq!(web.count(&format!("/manifests/{tag}")), 1, "it would not pass: {ran}");
    }
    let usage = tool(&["scan", "docker://localhost/UPPER:v1"]).expect(2);
    assert!(usage.stderr.contains("is no name of an image"), "{usage}");
    let unused = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound");
    let refused = tool(&["scan", &format!("docker://{unused}/a:v1")]).expect(3);
    assert!(refused.stderr.contains("refused"), "{refused}");
}

// --- registries that do ill ---

fn sample_layout(dir: &Path) -> Layout {
    sample(dir);
    Layout(dir.join("image"))
}

/// A server with the sample, and the names of that and of another image in it.
fn sample_web(dir: &Path) -> (Web, String, String) {
    let web = Web::of_layout(&sample_layout(dir));
    let name = |repository: &str| format!("docker://{}/{repository}:v1", web.address);
    let names = (name("team/image"), name("team/new"));
    (web, names.0, names.1)
}

#[test]
fn what_is_told_of_an_image_in_a_registry() {
    let dir = temp_dir();
    let (web, source, new) = sample_web(dir.path());
    let ran = tool(&["patch", &source, &new]).expect(0);
    let told = format!("{}--- stderr\n{}", ran.stdout, ran.stderr).replace(&web.address, "HOST");
    // Digests, sizes and times are those of the tool's version and of the day.
    let mut words: Vec<String> = told.split_inclusive([' ', '\n']).map(str::to_owned).collect();
    for at in 0..words.len() {
        if let Some(sum) = words[at].find("sha256:") {
            words[at].replace_range(sum + 7..sum + 71, "...");
        } else if ["bytes ", "s\n"].contains(&words[at].as_str()) {
            words[at - 1] = "N ".into();
        }
    }
    insta::assert_snapshot!(words.concat());
}

#[test]
fn the_bytes_sent_are_those_of_blobs_and_documents() {
    let dir = temp_dir();
    let (web, source, new) = sample_web(dir.path());
    let report = tool(&["patch", "--json", &source, &new]).expect(0).report();
    let sent = web.requests().iter().filter(|it| it.method == "PUT").map(|it| it.body.len()).sum::<usize>();
    assert_eq!(report["targets"][0]["image"]["sent"], sent);
    assert!(web.requests().iter().any(|it| it.method == "PUT" && it.path.contains("/manifests/")));
}

fn is_layer(request: &Request) -> bool {
    request.method == "GET" && request.path.contains("/blobs/")
}

#[test]
fn what_passes_is_waited_for_and_what_stays_is_status_3() {
    for status in [429, 500, 502, 503, 408, 0] {
        let dir = temp_dir();
        let (web, source, new) = sample_web(dir.path());
        // Of each five requests two fail, but nothing as often as it is tried, whatever is asked at once.
        let failures = Mutex::new(BTreeMap::new());
        let busy = move |request: &Request, reply| {
            let mut failures = failures.lock().expect("no test has failed");
            let failed = failures.entry(request.attempt().to_owned()).or_insert(0);
            if request.number % 5 > 1 || *failed == 3 {
                return reply;
            }
            *failed += 1;
            match status {
                0 => Reply::none(),
                status => Reply::error(status, "BUSY").header("Retry-After", "0"),
            }
        };
        web.twist(busy);
        let patched = tool(&["patch", &source, &new]).expect(0);
        assert!(patched.stdout.contains("/team/new@sha256:"), "{status}: {patched}");
        web.twist(|_, reply| reply);
        tool(&["verify", &new, "--against", &source]).expect(0);
    }
    let dir = temp_dir();
    let (web, source, new) = sample_web(dir.path());
    web.twist(|request, reply| {
        let stays = request.path.contains("/manifests/v1") && request.method == "PUT";
        if stays { Reply::error(503, "BUSY").header("Retry-After", "0") } else { reply }
    });
    let ran = tool(&["patch", &source, &new]).expect(3);
    assert!(ran.stderr.contains("answers 503") && ran.stdout.is_empty(), "{ran}");
    assert!(!web.has_tag("team/new", "v1"));
    let report = tool(&["patch", "--json", &source, &new]).expect(3).report();
    assert_eq!(report["targets"][0]["error"]["kind"], "unavailable");
    web.twist(|_, _| Reply::error(429, "TOOMANYREQUESTS").header("Retry-After", "86400"));
    let begun = std::time::Instant::now();
    tool(&["scan", &source]).expect(3);
    assert!(begun.elapsed().as_secs() < 30, "nobody waits for a day");
    // The same as a time.
    let asked = web.count("/manifests/v1");
    web.twist(|_, _| Reply::error(503, "BUSY").header("Retry-After", "Fri, 31 Dec 9999 23:59:59 GMT"));
    tool(&["scan", &source]).expect(3);
    assert_eq!(web.count("/manifests/v1"), asked + 1, "asked once, and not waited for");
    web.twist(|request, reply| match request.number % 2 {
        0 => Reply::error(503, "BUSY").header("Retry-After", "Thu, 01 Jan 1970 00:00:00 GMT"),
        _ => reply,
    });
    tool(&["scan", &source]).expect(1);
}

#[test]
fn a_blob_that_breaks_off_goes_on_where_it_broke_off() {
    for knows_ranges in [true, false] {
        let dir = temp_dir();
        let noise: Vec<u8> = (0..1_u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
        image(dir.path(), &[files(&[("bin/program", PROGRAM), ("data", &noise)])]);
        let web = Web::of_layout(&Layout(dir.path().join("image")));
        let name = format!("docker://{}/team/image:v1", web.address);
        // Whoever asks for the rest gets all of it from a registry that knows no ranges.
        web.twist(move |request, reply| {
            let is_rest = request.headers.contains_key("range");
            let reply = if knows_ranges { reply } else { reply.whole() };
            let breaks = reply.body.len() > 500_000 && (knows_ranges || !is_rest);
            if is_layer(request) && breaks { reply.cut_at(400_000) } else { reply }
        });
        tool(&["scan", &name]).expect(1);
        let asked: &[&str] =
            if knows_ranges { &["bytes=400000-", "bytes=800000-"] } else { &["bytes=400000-"] };
        assert_eq!(web.ranges(), asked);
    }
}

#[test]
fn lies_are_found_out_and_nothing_is_tagged() {
    let lie = |what: &str, words: &str, status: i32, twist: fn(&Request, Reply) -> Reply| {
        let dir = temp_dir();
        let (web, source, new) = sample_web(dir.path());
        web.twist(twist);
        let ran = tool(&["patch", &source, &new]).expect(status);
        assert!(ran.stderr.contains(words), "{what}: {ran}");
        assert!(ran.stdout.is_empty() && !web.has_tag("team/new", "v1"), "{what}");
    };
    lie("another layer", "digest", 2, |request, mut reply| {
        if is_layer(request) && reply.body.len() > 10_000 {
            reply.body[700] ^= 1;
        }
        reply
    });
    lie("another manifest than it says", "another manifest", 2, |request, mut reply| {
        if request.method == "GET" && request.path.contains("/manifests/") {
            reply.body.push(b' ');
        }
        reply
    });
    lie("no manifest", "not a JSON document", 2, |request, reply| {
        if request.path.contains("/manifests/") && request.method == "GET" {
            Reply::new(200, b"<html>the page of a proxy</html>")
        } else {
            reply
        }
    });
    lie("a longer content than it sends", "broke off", 3, |request, reply| {
        if is_layer(request) { reply.cut_short(100) } else { reply }
    });
    lie("an endless manifest", "more than", 2, |request, reply| {
        if request.path.contains("/manifests/") && request.method == "GET" { reply.endless() } else { reply }
    });
    lie("an endless layer", "more bytes", 2, |request, reply| {
        if is_layer(request) && reply.body.len() > 10_000 { reply.endless() } else { reply }
    });
    // What a registry says that it took is not what it was sent.
    let dir = temp_dir();
    let (web, source, new) = sample_web(dir.path());
    web.twist(|request, reply| {
        let is_tag = request.method == "PUT" && request.path.contains("/manifests/v1");
        if is_tag { reply.header("Docker-Content-Digest", &digest(b"something else")) } else { reply }
    });
    let ran = tool(&["patch", &source, &new]).expect(2);
    assert!(ran.stderr.contains("says that it took") && ran.stdout.is_empty(), "{ran}");
    // By digest the answer is checked whatever the registry says of it.
    let dir = temp_dir();
    let (web, source, _) = sample_web(dir.path());
    web.twist(|request, reply| {
        if request.path.contains("/manifests/") { Reply::new(200, br#"{"layers":[]}"#) } else { reply }
    });
    let by_digest = format!("{}@{}", source.trim_end_matches(":v1"), digest(b"asked"));
    let ran = tool(&["scan", &by_digest]).expect(2);
    assert!(ran.stderr.contains("another manifest"), "{ran}");
}

#[test]
fn credentials_do_not_follow_to_another_host() {
    let dir = temp_dir();
    let (web, source, new) = sample_web(dir.path());
    let elsewhere = Web::of_layout(&sample_layout(dir.path()));
    let base = format!("http://{}", elsewhere.address);
    web.twist(move |request, reply| {
        if !request.headers.contains_key("authorization") {
            return Reply::error(401, "UNAUTHORIZED").header("WWW-Authenticate", "Basic realm=\"here\"");
        }
        if is_layer(request) {
            return Reply::new(307, b"").header("Location", &format!("{base}{}", request.path));
        }
        if request.method == "POST" {
            return Reply::new(202, b"")
                .header("Location", &format!("{base}/v2/team/new/blobs/uploads/1?x=y"));
        }
        // What was sent elsewhere is there for whoever asks here.
        if request.method == "PUT" && request.path.contains("/blobs/") { panic!("sent here") } else { reply }
    });
    tool(&["patch", "--creds=user:secret", &source, &new]).expect(0);
    let others = elsewhere.requests();
    assert!(others.iter().any(is_layer) && others.iter().any(|it| it.method == "PUT"), "{others:?}");
    assert!(others.iter().all(|it| !it.headers.contains_key("authorization")), "{others:?}");
    assert!(web.has_tag("team/new", "v1"));
}

#[test]
fn tokens_are_fetched_with_the_scope_that_is_needed_and_again_when_they_are_over() {
    let dir = temp_dir();
    let (web, source, new) = sample_web(dir.path());
    let realm = format!("http://{}/token", web.address);
    web.twist(move |request, reply| {
        if request.path.starts_with("/token") {
            let given = request.headers.get("authorization").map(String::as_str);
            return match given {
                // user:secret
                Some("Basic dXNlcjpzZWNyZXQ=") => {
                    let right = if request.path.contains("push") { "push" } else { "pull" };
                    Reply::new(
                        200,
                        json!({ "token": format!("{right}-{}", request.number / 8) }).to_string().as_bytes(),
                    )
                }
                _ => Reply::error(401, "UNAUTHORIZED"),
            };
        }
        let given = request.headers.get("authorization").cloned().unwrap_or_default();
        let is_write = !["GET", "HEAD"].contains(&request.method.as_str());
        let is_fresh = given
            .rsplit('-')
            .next()
            .and_then(|it| it.parse::<usize>().ok())
            .is_some_and(|it| request.number / 8 <= it + 1);
        if is_fresh && (given.starts_with("Bearer push-") || (given.starts_with("Bearer pull-") && !is_write))
        {
            return reply;
        }
        let challenge = format!("Bearer realm=\"{realm}\",service=\"the service\"");
        Reply::error(401, "UNAUTHORIZED").header("WWW-Authenticate", &challenge)
    });
    let nobody = tool(&["patch", &source, &new]).expect(2);
    assert!(nobody.stderr.contains("wants to know who asks"), "{nobody}");
    tool(&["patch", "--creds=user:secret", &source, &new]).expect(0);
    assert!(web.has_tag("team/new", "v1"));
    let asked: Vec<String> =
        web.requests().iter().filter(|it| it.path.starts_with("/token")).map(|it| it.path.clone()).collect();
    assert!(asked.iter().all(|it| it.contains("service=the+service")), "{asked:?}");
    for scope in ["repository%3Ateam%2Fimage%3Apull", "repository%3Ateam%2Fnew%3Apull%2Cpush"] {
        assert!(asked.iter().any(|it| it.contains(scope)), "{scope}: {asked:?}");
    }
}

#[test]
fn who_asks_for_several_things_at_once_fetches_one_token() {
    let dir = temp_dir();
    let (web, source, new) = sample_web(dir.path());
    let realm = format!("http://{}/token", web.address);
    web.twist(move |request, reply| {
        if request.path.starts_with("/token") {
            let right = if request.path.contains("push") { "push" } else { "pull" };
            return Reply::new(200, json!({ "token": right }).to_string().as_bytes());
        }
        let given = request.headers.get("authorization").map(String::as_str);
        let is_read = ["GET", "HEAD"].contains(&request.method.as_str());
        if given == Some("Bearer push") || (given == Some("Bearer pull") && is_read) {
            return reply;
        }
        let challenge = format!("Bearer realm=\"{realm}\",service=\"the service\"");
        Reply::error(401, "UNAUTHORIZED").header("WWW-Authenticate", &challenge)
    });
    tool(&["patch", &source, &new]).expect(0);
    let asked = web.requests();
    let tokens = asked.iter().filter(|it| it.path.starts_with("/token")).count();
    assert_eq!(tokens, 2, "one to read, one to write");
    let sent = asked.iter().filter(|it| it.method == "PUT" && it.path.contains("/blobs/uploads/")).count();
    assert_eq!(sent, 2, "the configuration and the layer");
}

#[test]
fn a_token_that_is_over_before_the_blob_is_sent_is_fetched_anew() {
    let dir = temp_dir();
    let (web, source, new) = sample_web(dir.path());
    let realm = format!("http://{}/token", web.address);
    let fetched = AtomicUsize::new(0);
    // The first two tokens, to read and to write, are over with the first blob.
    let are_over = AtomicBool::new(false);
    web.twist(move |request, reply| {
        if request.path.starts_with("/token") {
            let number = fetched.fetch_add(1, Ordering::Relaxed);
            return Reply::new(200, json!({ "token": number.to_string() }).to_string().as_bytes());
        }
        if request.method == "PUT" && request.path.contains("/blobs/uploads/") {
            are_over.store(true, Ordering::Relaxed);
        }
        let given = request.headers.get("authorization").and_then(|given| given.strip_prefix("Bearer "));
        let first = if are_over.load(Ordering::Relaxed) { 2 } else { 0 };
        if given.and_then(|number| number.parse::<usize>().ok()).is_some_and(|number| number >= first) {
            return reply;
        }
        let challenge = format!("Bearer realm=\"{realm}\",service=\"the service\"");
        Reply::error(401, "UNAUTHORIZED").header("WWW-Authenticate", &challenge)
    });
    tool(&["patch", &source, &new]).expect(0);
    web.twist(|_, reply| reply);
    tool(&["verify", &new, "--against", &source]).expect(0);
}

#[test]
fn nothing_is_tagged_where_one_of_the_blobs_that_are_sent_at_once_is_refused() {
    // The configuration, or the layer.
    for is_config in [true, false] {
        let dir = temp_dir();
        let (web, source, new) = sample_web(dir.path());
        web.twist(move |request, reply| {
            let is_blob = request.method == "PUT" && request.path.contains("/blobs/uploads/");
            let is_refused = is_blob && request.body.starts_with(b"{") == is_config;
            if is_refused { Reply::error(403, "DENIED") } else { reply }
        });
        let ran = tool(&["patch", &source, &new]).expect(2);
        assert!(ran.stderr.contains("forbids this for team/new") && ran.stdout.is_empty(), "{ran}");
        let is_manifest = |it: &Request| it.method == "PUT" && it.path.contains("/manifests/");
        assert!(!web.requests().iter().any(is_manifest) && !web.has_tag("team/new", "v1"));
    }
}

#[test]
fn a_login_by_an_identity_token_gets_tokens_for_it() {
    let dir = temp_dir();
    let (web, source, new) = sample_web(dir.path());
    let realm = format!("http://{}/token", web.address);
    web.twist(move |request, reply| {
        if request.path.starts_with("/token") {
            let form = String::from_utf8_lossy(&request.body);
            let is_ours =
                form.contains("grant_type=refresh_token") && form.contains("refresh_token=the-identity");
            let token = json!({ "access_token": "for-now" }).to_string();
            return match request.method.as_str() {
                "POST" if is_ours => Reply::new(200, token.as_bytes()),
                _ => Reply::error(401, "UNAUTHORIZED"),
            };
        }
        if request.headers.get("authorization").is_some_and(|given| given == "Bearer for-now") {
            return reply;
        }
        let challenge = format!("Bearer realm=\"{realm}\",service=\"the service\"");
        Reply::error(401, "UNAUTHORIZED").header("WWW-Authenticate", &challenge)
    });
    let file = dir.path().join("auth.json");
    let login = |identity: &str| {
        // PHRva2VuPjo= is <token>: as docker login writes it.
        let entry = json!({ "auth": "PHRva2VuPjo=", "identitytoken": identity });
        fs::write(&file, json!({ "auths": { web.address.as_str(): entry } }).to_string()).expect("written");
        format!("--authfile={}", file.display())
    };
    tool(&["patch", &login("the-identity"), &source, &new]).expect(0);
    assert!(web.has_tag("team/new", "v1"));
    let refused = tool(&["scan", &login("another"), &source]).expect(2);
    assert!(
        refused.stderr.contains("does not accept the login") && !refused.stderr.contains("another"),
        "{refused}"
    );
}

#[test]
fn on_a_terminal_each_blob_on_its_way_has_a_line() {
    if !need("script") {
        return;
    }
    let dir = temp_dir();
    let (_web, source, _) = sample_web(dir.path());
    let on_terminal = |more: &str| {
        let line = format!("{} scan {more} --no-cache {source}", env!("CARGO_BIN_EXE_vsyspatch"));
        Ran::of(Command::new("script").args(["-qec", &line, "/dev/null"]).env("TERM", "xterm"))
            .expect(1)
            .stdout
    };
    let [manifest, _] = Layout(dir.path().join("image")).image();
    // The first digits alone: with all of them it is said where a file is.
    let layer = manifest["layers"][0]["digest"].as_str().expect("a digest");
    let line = format!("{} ", &layer[7..19]);
    let told = on_terminal("");
    assert!(told.contains(&line) && told.contains("KiB"), "{told}");
    assert!(!on_terminal("-q").contains(&line));
    let piped = tool(&["scan", &source]).expect(1);
    assert!(!piped.stderr.contains(&line), "{piped}");
}

#[test]
fn a_helper_is_asked_for_the_registry_of_docker_as_docker_calls_it() {
    let dir = temp_dir();
    let place = |path: &str| dir.path().join(path);
    let log = place("asked");
    let answer = r#"{"ServerURL":"x","Username":"user","Secret":"secret"}"#;
    let script = format!(
        "#!/bin/sh\nserver=$(cat)\necho \"$server\" >> {}\n[ \"$server\" = https://index.docker.io/v1/ ] || exit 1\necho '{answer}'\n",
        log.display()
    );
    for directory in ["bin", "config"] {
        fs::create_dir(place(directory)).expect("made");
    }
    fs::write(place("script"), script).expect("written");
    let mut install = Command::new("install");
    install.args(["-m", "755"]).arg(place("script")).arg(place("bin/docker-credential-test"));
    Ran::of(&mut install).expect(0);
    fs::write(place("config/config.json"), r#"{"credsStore":"test"}"#).expect("written");
    // Nobody gets to the registry itself.
    let path = format!("{}:{}", place("bin").display(), std::env::var("PATH").expect("text"));
    let mut scan = alone(&place("home"));
    scan.env("PATH", path).env("DOCKER_CONFIG", place("config")).env("HTTPS_PROXY", "http://127.0.0.1:1");
    Ran::of(scan.args(["scan", "docker://docker.io/library/legacy:1"])).expect(3);
    let asked = String::from_utf8(read(&log)).expect("text");
    assert_eq!(asked.lines().last(), Some("https://index.docker.io/v1/"), "{asked}");
}

#[test]
fn a_password_is_told_to_one_registry() {
    let dir = temp_dir();
    let (web, source, _) = sample_web(dir.path());
    let (other, _, new) = sample_web(temp_dir().path());
    for words in [
        &["patch", &source, &new][..],
        &["revert", &source, &new],
        &["verify", &source, "--against", &new],
        &["scan", &source, &new],
    ] {
        let refused = tool(&[words, &["--creds=user:secret"]].concat()).expect(2);
        let both = [&web.address, &other.address];
        assert!(both.iter().all(|host| refused.stderr.contains(host.as_str())), "{refused}");
        assert!(refused.stderr.contains("--authfile") && !refused.stderr.contains("secret"), "{refused}");
    }
    assert!(web.requests().is_empty() && other.requests().is_empty());
    let own = format!("docker://{}/team/new:v1", web.address);
    tool(&["patch", "--creds=user:secret", &source, &own]).expect(0);
}

#[test]
fn a_new_image_is_never_sent_to_a_digest() {
    let dir = temp_dir();
    let (web, source, new) = sample_web(dir.path());
    let to = format!("{}@{}", new.trim_end_matches(":v1"), digest(b"another"));
    for command in ["patch", "revert"] {
        let refused = tool(&[command, &source, &to]).expect(2);
        assert!(
            refused.stderr.contains("by its digest") && refused.stderr.contains("name a tag"),
            "{refused}"
        );
    }
    assert!(web.requests().is_empty());
}

#[test]
fn registries_that_take_a_manifest_in_other_words_are_understood() {
    for status in [200, 202] {
        let dir = temp_dir();
        let (web, source, new) = sample_web(dir.path());
        web.twist(move |request, mut reply| {
            if request.method == "PUT" && request.path.contains("/manifests/") {
                reply.status = status;
            }
            reply
        });
        tool(&["patch", &source, &new]).expect(0);
        assert!(web.has_tag("team/new", "v1"));
    }
}

#[test]
fn a_blob_that_may_not_be_mounted_is_sent() {
    for status in [401, 403, 404, 405] {
        let dir = temp_dir();
        let (web, source, new) = sample_web(dir.path());
        web.twist(move |request, reply| {
            let is_begin = request.method == "POST" && request.path.contains("/blobs/uploads/");
            let is_mount = request.path.contains("mount=");
            // Nothing is there that was not sent.
            match request.method.as_str() {
                "HEAD" if request.path.contains("/team/new/blobs/") => Reply::error(404, "BLOB_UNKNOWN"),
                _ if is_begin && is_mount => Reply::error(status, "DENIED"),
                _ => reply,
            }
        });
        tool(&["patch", &source, &new]).expect(0);
        let begun = web.requests();
        let begun = begun.iter().filter(|it| it.method == "POST").map(|it| it.path.contains("mount="));
        // Those that are sent at once take turns, but each is asked for by its mount first.
        let mut asked = 0;
        let turns: Vec<bool> = begun.collect();
        for is_mount in &turns {
            asked += if *is_mount { 1 } else { -1 };
            assert!(asked >= 0, "{status}: {turns:?}");
        }
        assert!(!turns.is_empty() && asked == 0, "{status}: {turns:?}");
        assert!(web.has_tag("team/new", "v1"));
        tool(&["verify", &new, "--against", &source]).expect(0);
    }
}

// --- what describes an image ---

const SIGNED: &str = "application/vnd.oci.image.manifest.v1+json";

/// What patching `source` says is no longer valid.
fn outdated(source: &str, new: &str) -> Vec<String> {
    let report = tool(&["patch", "--json", source, new]).expect(0).report();
    let lines = report["targets"][0]["image"]["outdated"].as_array().expect("a list").clone();
    lines.iter().map(|line| line.as_str().expect("text").to_owned()).collect()
}

/// A manifest that says it describes the image `of`, as `oras attach` makes it.
fn referrer(of: &str) -> Vec<u8> {
    let empty =
        json!({ "mediaType": "application/vnd.oci.empty.v1+json", "digest": digest(b"{}"), "size": 2 });
    json!({ "schemaVersion": 2, "mediaType": SIGNED, "artifactType": "application/spdx+json", "config": empty,
        "layers": [empty], "subject": { "mediaType": SIGNED, "digest": of, "size": 1 } })
    .to_string()
    .into_bytes()
}

fn index_of(manifests: &[String]) -> Vec<u8> {
    let descriptor = |digest: &String| json!({ "mediaType": SIGNED, "digest": digest, "size": 1 });
    let all: Vec<_> = manifests.iter().map(descriptor).collect();
    json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": all }).to_string().into_bytes()
}

#[test]
fn a_registry_is_asked_for_what_describes_the_old_image() {
    if !["docker-registry", "skopeo"].into_iter().all(need) {
        return;
    }
    let dir = temp_dir();
    let registry = Registry::start(dir.path());
    let name = |tag: &str| format!("docker://{}/team/image:{tag}", registry.address);
    let layout = sample(dir.path());
    let push = |tag: &str| skopeo(&["copy", "-q", "--dest-tls-verify=false", &layout, &name(tag)]);
    push("v1");
    assert_eq!(outdated(&name("v1"), &name("v2")), [""; 0]);
    let raw = skopeo(&["inspect", "--raw", "--tls-verify=false", &name("v1")]).stdout;
    let old = digest(raw.as_bytes());
    // Whatever is at such a tag; another image's stays out of it.
    let tag = |end: &str| format!("{}{end}", old.replace(':', "-"));
    for end in [".sig", ".att", ".sbom"] {
        push(&tag(end));
    }
    push(&format!("sha256-{}.sig", "0".repeat(64)));
    // An index of referrers, which this registry keeps under a tag: it has no API for them.
    let beside = Layout::new(dir.path(), "referrers");
    let bytes = referrer(&old);
    beside.blob(b"{}");
    let mut listed = beside.descriptor(SIGNED, &serde_json::from_slice(&bytes).expect("JSON"));
    listed["artifactType"] = json!("application/spdx+json");
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [listed] });
    let root = beside.descriptor(INDEX, &index);
    let copy = ["copy", "-q", "--all", "--dest-tls-verify=false"];
    skopeo(&[&copy[..], &[&beside.finish(root), &name(&tag(""))]].concat());

    let expected = [
        format!("signature {}, which is of {old}", tag(".sig")),
        format!("attestation {}, which is of {old}", tag(".att")),
        format!("bill of materials {}, which is of {old}", tag(".sbom")),
        format!("referrer {}, which is of {old}", listed["digest"].as_str().expect("text")),
    ];
    assert_eq!(outdated(&name("v1"), &name("v2")), expected);
    let dry = tool(&["patch", "--dry-run", "-i", &name("v1")]).expect(0);
    assert_eq!(dry.stdout.matches("no longer valid: ").count(), 4, "{dry}");
    assert!(!tool(&["scan", &name("v1")]).expect(1).stdout.contains("no longer valid"));
}

#[test]
fn referrers_are_listed_by_the_registry_itself_where_it_can() {
    let dir = temp_dir();
    let (web, source, new) = sample_web(dir.path());
    let layout = Layout(dir.path().join("image"));
    let top: serde_json::Value = serde_json::from_slice(&read(&layout.0.join("index.json"))).expect("JSON");
    let old = top["manifests"][0]["digest"].as_str().expect("text").to_owned();
    let path = format!("/v2/team/image/referrers/{old}");
    let answers = |reply: Reply| {
        let path = path.clone();
        web.twist(move |request, own| if request.path == path { reply.clone() } else { own });
        outdated(&source, &new)
    };
    let others: Vec<String> = (0..300).map(|n| digest(&[n as u8, 1])).collect();
    let line = |name: &str| format!("referrer {name}, which is of {old}");
    let listed = answers(Reply::new(200, &index_of(&others[..2])));
    assert_eq!(listed, [line(&others[0]), line(&others[1])]);
    assert_eq!(web.count(&old.replace(':', "-")), 0, "the tag is not asked for");
    // One part of several, and more than anybody reads.
    let next = format!("<{path}?last=2>; rel=\"next\"");
    let part = answers(Reply::new(200, &index_of(&others[..1])).header("Link", &next));
    assert_eq!(part, [line(&others[0]), format!("every referrer beyond the first 1, which is of {old}")]);
    let many = answers(Reply::new(200, &index_of(&others)));
    assert_eq!((many.len(), many[256].contains("beyond the first 256")), (257, true));
    // A registry that does not tell is no reason to stop, and not taken for one that has nothing.
    for (reply, words) in [
        (Reply::error(403, "DENIED"), "forbids this"),
        (Reply::error(501, "UNSUPPORTED"), "answers 501"),
        (Reply::new(200, b"<html>"), "not a JSON document"),
        (Reply::new(200, b"").endless(), "more than 4194304 bytes"),
    ] {
        let [line] = &answers(reply.header("Retry-After", "0"))[..] else { panic!("one line: {words}") };
        assert!(line.starts_with(&format!("what else describes {old}")) && line.contains(words), "{line}");
    }
    // The page of something else, which is no list, says nothing.
    assert_eq!(answers(Reply::new(200, b"{}")), [""; 0]);
    assert_eq!(answers(Reply::new(404, b"")), [""; 0]);
}

// --- schema 1 ---

#[test]
fn images_of_schema_1_come_straight_from_a_registry() {
    if !["docker-registry", "skopeo"].into_iter().all(need) {
        return;
    }
    let dir = temp_dir();
    let registry = Registry::start(dir.path());
    let name = |repository: &str| format!("docker://{}/{repository}:v1", registry.address);
    let old = name("old");
    let copy = ["copy", "-q", "--format", "v2s1", "--dest-tls-verify=false"];
    skopeo(&[&copy[..], &[&sample(dir.path()), &old]].concat());
    let raw = skopeo(&["inspect", "--raw", "--tls-verify=false", &old]).json();
    assert_eq!(raw["schemaVersion"], 1);
    let digest = skopeo(&["inspect", "--format", "{{.Digest}}", "--tls-verify=false", &old]).stdout;
    for from in [old.clone(), format!("{}@{}", old.trim_end_matches(":v1"), digest.trim())] {
        tool(&["scan", &from]).expect(1);
        tool(&["patch", &from, &name("new")]).expect(0);
        tool(&["verify", &name("new")]).expect(0);
    }
    let config = skopeo(&["inspect", "--config", "--tls-verify=false", &name("new")]).json();
    assert_eq!(config["rootfs"]["diff_ids"].as_array().map(Vec::len), Some(2));
    assert_eq!(config["config"]["Cmd"][0], "/bin/program");
}

#[test]
fn only_what_was_signed_of_a_manifest_of_schema_1_counts() {
    let dir = temp_dir();
    let tar = files(&[("bin/program", PROGRAM)]);
    let web = Web::default();
    web.put_blob(&tar);
    let v1 =
        json!({ "id": "0".repeat(64), "architecture": "amd64", "os": "linux", "config": {} }).to_string();
    let manifest = |blob: &str| {
        json!({ "schemaVersion": 1, "name": "team/image", "tag": "v1", "architecture": "amd64",
            "fsLayers": [{ "blobSum": blob }], "history": [{ "v1Compatibility": v1 }] })
    };
    let payload = serde_json::to_string_pretty(&manifest(&digest(&tar))).expect("JSON");
    let other = serde_json::to_string(&manifest(&digest(b"not signed"))["fsLayers"]).expect("JSON");
    let encoded = |text: &str| base64(text.as_bytes());
    let head = payload.trim_end_matches("\n}");
    let protected = json!({ "formatLength": head.len(), "formatTail": encoded("\n}") }).to_string();
    // The last of two entries of a name would win.
    let signed = format!(
        "{head},\"signatures\":[{{\"protected\":\"{}\"}}],\"fsLayers\":{other}}}",
        encoded(&protected)
    );
    web.put_manifest(
        "team/image",
        "v1",
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
        signed.as_bytes(),
    );
    let (told, name) = (digest(payload.as_bytes()), format!("docker://{}/team/image:v1", web.address));
    web.twist(move |request, reply| {
        if request.path.contains("/manifests/") {
            reply.header("Docker-Content-Digest", &told)
        } else {
            reply
        }
    });
    tool(&["scan", &name]).expect(1);
    let new = format!("oci:{}", dir.path().join("new").display());
    tool(&["patch", &name, &new]).expect(0);
    tool(&["verify", &new]).expect(0);
    web.twist(|request, reply| {
        let is_manifest = request.path.contains("/manifests/");
        if is_manifest { reply.header("Docker-Content-Digest", &digest(b"something else")) } else { reply }
    });
    let ran = tool(&["scan", &name]).expect(2);
    assert!(ran.stderr.contains("another manifest"), "{ran}");
}

fn base64(bytes: &[u8]) -> String {
    use ::base64::Engine as _;
    ::base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
}
