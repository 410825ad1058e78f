//! The names that images have in layouts, archives and engines.

/// What Docker leaves out of a name.
const HOST: &str = "docker.io/";
const LIBRARY: &str = "library/";

/// The name before the tag, and the tag: the colon of a port is none of a tag.
pub(super) fn split(name: &str) -> (&str, Option<&str>) {
    match name.rsplit_once(':') {
        Some((front, tag)) if !tag.contains('/') => (front, Some(tag)),
        _ => (name, None),
    }
}

/// The whole name, as engines know an image: with a tag and without a digest, which is of one image alone. Nothing
/// where there is only a digest.
pub(super) fn tagged(name: &str) -> Option<String> {
    let (front, digest) = name.split_once('@').map_or((name, None), |(front, digest)| (front, Some(digest)));
    match split(front) {
        (_, Some(_)) => Some(front.to_owned()),
        (_, None) => digest.is_none().then(|| format!("{front}:latest")),
    }
}

/// Whether it is a name, and not the tag of one alone.
pub(super) fn is_whole(name: &str) -> bool {
    name.contains([':', '/'])
}

/// The name with all that Docker leaves out: `foo:1` is `docker.io/library/foo:1`.
pub(super) fn full(name: &str) -> String {
    let is_host = |first: &str| first.contains(['.', ':']) || first == "localhost";
    let rest = name.strip_prefix(HOST).or_else(|| name.strip_prefix("index.docker.io/"));
    match (rest, name.split_once('/')) {
        (Some(rest), _) if rest.contains('/') => format!("{HOST}{rest}"),
        (Some(rest), _) => format!("{HOST}{LIBRARY}{rest}"),
        (None, Some((first, _))) if is_host(first) => name.to_owned(),
        (None, Some(_)) => format!("{HOST}{name}"),
        (None, None) => format!("{HOST}{LIBRARY}{name}"),
    }
}

/// Whether `name` is what somebody means who asks for the image `wanted`: the same name, or its tag alone.
pub(super) fn means(wanted: &str, name: &str) -> bool {
    let whole = |name: &str| tagged(&full(name)).unwrap_or_else(|| full(name));
    name == wanted || split(name).1 == Some(wanted) || whole(name) == whole(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_docker() {
        assert_eq!(split("localhost:5000/team/app"), ("localhost:5000/team/app", None));
        assert_eq!(split("localhost:5000/team/app:1"), ("localhost:5000/team/app", Some("1")));
        assert_eq!(tagged("localhost:5000/team/app").as_deref(), Some("localhost:5000/team/app:latest"));
        assert_eq!(tagged("foo:1").as_deref(), Some("foo:1"));
        assert_eq!(tagged("foo@sha256:00"), None);
        assert_eq!(tagged("foo:1@sha256:00").as_deref(), Some("foo:1"));
        for (name, whole) in [
            ("foo:1", "docker.io/library/foo:1"),
            ("team/foo", "docker.io/team/foo"),
            ("docker.io/foo:1", "docker.io/library/foo:1"),
            ("localhost/foo", "localhost/foo"),
            ("localhost:5000/foo", "localhost:5000/foo"),
            ("docker.io/team/foo", "docker.io/team/foo"),
        ] {
            assert_eq!(full(name), whole);
        }
        assert!(means("foo:1", "docker.io/library/foo:1") && means("docker.io/library/foo:1", "foo:1"));
        assert!(means("1", "localhost/foo:1") && means("foo", "docker.io/library/foo:latest"));
        assert!(!means("foo:2", "docker.io/library/foo:1") && !means("a:1", "localhost/a:1"));
    }
}
