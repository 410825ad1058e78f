//! Layers that no tar program writes, block by block.

/// A tar archive, entry by entry.
#[derive(Default)]
pub struct Tar(Vec<u8>);

/// Where the size is in a header block, and how many bytes it has.
const SIZE: std::ops::Range<usize> = 124..136;

impl Tar {
    pub fn file(self, path: &str, content: &[u8]) -> Self {
        self.entry(b'0', path, "", content)
    }

    pub fn directory(self, path: &str) -> Self {
        self.entry(b'5', path, "", b"")
    }

    /// A further name of `target`.
    pub fn link(self, path: &str, target: &str) -> Self {
        self.entry(b'1', path, target, b"")
    }

    pub fn symlink(self, path: &str, target: &str) -> Self {
        self.entry(b'2', path, target, b"")
    }

    /// PAX records for the entry that follows.
    pub fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut all = vec![];
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            // The length counts its own digits.
            let len = (1..9).map(|digits| rest + digits).find(|len| len.to_string().len() + rest == *len);
            all.extend(format!("{} {key}=", len.expect("not so long")).bytes());
            all.extend_from_slice(value);
            all.push(b'\n');
        }
        self.entry(b'x', "pax", "", &all)
    }

    /// GNU's name for the entry that follows, or with `kind` K for what it links to.
    pub fn gnu_long(self, kind: u8, name: &str) -> Self {
        self.entry(kind, "././@LongLink", "", &[name.as_bytes(), b"\0"].concat())
    }

    pub fn entry(mut self, kind: u8, path: &str, target: &str, content: &[u8]) -> Self {
        self.0.extend(header(kind, path, target, format!("{:011o}\0", content.len()).as_bytes()));
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    /// A header block that says `size`, with nothing behind.
    pub fn sized(mut self, kind: u8, path: &str, size: u64) -> Self {
        let mut field = [0; 12];
        field[0] = 0x80;
        field[4..].copy_from_slice(&size.to_be_bytes());
        self.0.extend(header(kind, path, "", &field));
        self
    }

    pub fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

fn header(kind: u8, path: &str, target: &str, size: &[u8]) -> [u8; 512] {
    let mut block = [0; 512];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, path.as_bytes());
    put(100, b"0000755\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(SIZE.start, size);
    put(136, b"11356361000\0");
    put(156, &[kind]);
    put(157, target.as_bytes());
    put(257, b"ustar\x0000");
    put(148, b"        ");
    let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}
