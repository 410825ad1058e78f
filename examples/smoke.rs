use vsyspatch::session::{self, Destination};
fn main() {
    for path in std::env::args().skip(1) {
        let path = std::path::Path::new(&path);
        let out = std::path::PathBuf::from("/tmp/smoke.out");
        let back = std::path::PathBuf::from("/tmp/smoke.back");
        let p = session::patch(path, &Destination::To(out.clone()), None);
        match &p {
            Ok(f) => println!("{path:?} {:?} {:?}", f.action, f.warnings),
            Err(e) => {
                println!("{path:?} ERR {e}");
                continue;
            }
        }
        match session::verify(&out, None) {
            Ok(f) => println!("  {:?}", f.action),
            Err(e) => println!("  verify ERR {e}"),
        }
        match session::revert(&out, &Destination::To(back.clone()), None) {
            Ok(f) => {
                println!("  {:?} {}", f.action, std::fs::read(&back).unwrap() == std::fs::read(path).unwrap())
            }
            Err(e) => println!("  revert ERR {e}"),
        }
        let _ = std::fs::remove_file("/tmp/smoke.out.vsyspatch.json");
    }
}
