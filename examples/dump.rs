fn main() {
    for path in std::env::args().skip(1) {
        let bytes = std::fs::read(&path).unwrap();
        let t = std::time::Instant::now();
        match vsyspatch::elf::parse(&bytes) {
            Ok(vsyspatch::elf::Parsed::Image(image)) => {
                let plan = vsyspatch::plan_elf(&image);
                println!("{path} {:?} {:?}", image.identity, t.elapsed());
                for s in &plan.sites {
                    println!(
                        "  {} {} {} {} {} {:?} {:?} {} {:?} [{}] ",
                        s.offset,
                        s.vaddr,
                        s.entry,
                        s.form,
                        s.verdict,
                        s.function,
                        s.reach,
                        s.reason,
                        s.strategy,
                        s.edits
                            .iter()
                            .map(|&e| format!(
                                "{}:{}->{}",
                                plan.edits[e].offset,
                                hex::encode(&plan.edits[e].before),
                                hex::encode(&plan.edits[e].after)
                            ))
                            .collect::<Vec<_>>()
                            .join(" ")
                    );
                }
            }
            Ok(vsyspatch::elf::Parsed::Foreign(what)) => println!("{path} FOREIGN {what}"),
            Err(e) => println!("{path} ERROR {e}"),
        }
    }
}
