//! Where exceptions continue: the landing pads of a function, as its language-specific data area
//! (`.gcc_except_table`) lists them. Control arrives there from calls without any branch.
//!
//! Source: Itanium C++ ABI, exception handling tables; GCC's `unwind-dw2-fde` and `eh_personality`.

use gimli::{EndianSlice, LittleEndian, Reader as _};

use crate::addr::Vaddr;
use crate::elf::Image;
use crate::limits;

/// `DW_EH_PE_omit`: there is no value.
const OMITTED: u8 = 0xff;

type Bytes<'a> = EndianSlice<'a, LittleEndian>;

/// The landing pads that the table at `lsda` lists for the function that begins at `start`; as far as it can
/// be read.
pub(crate) fn landing_pads(image: &Image<'_>, lsda: Vaddr, start: Vaddr) -> Vec<Vaddr> {
    let mut pads = Vec::new();
    if let Some(bytes) = image.bytes_at(lsda) {
        // A table that ends early has told what it has.
        let _ = read(EndianSlice::new(bytes, LittleEndian), start, &mut pads);
    }
    pads
}

fn read(mut table: Bytes<'_>, start: Vaddr, pads: &mut Vec<Vaddr>) -> gimli::Result<()> {
    let base_encoding = table.read_u8()?;
    let base = if base_encoding == OMITTED { start.0 } else { number(&mut table, base_encoding)? };
    if table.read_u8()? != OMITTED {
        table.read_uleb128()?; // where the table of types is
    }
    let encoding = table.read_u8()?;
    let size = table.read_uleb128()?;
    let mut sites = table.split(usize::try_from(size).unwrap_or(usize::MAX).min(table.len()))?;
    while !sites.is_empty() && pads.len() < limits::LANDING_PADS {
        number(&mut sites, encoding)?; // the call's begin
        number(&mut sites, encoding)?; // its length
        let pad = number(&mut sites, encoding)?;
        sites.read_uleb128()?; // what is done there
        if pad != 0 {
            pads.push(Vaddr(base.wrapping_add(pad)));
        }
    }
    Ok(())
}

/// A number in one of the encodings that compilers use here.
fn number(bytes: &mut Bytes<'_>, encoding: u8) -> gimli::Result<u64> {
    match encoding & 0x0f {
        0x01 => bytes.read_uleb128(),
        0x02 => bytes.read_u16().map(u64::from),
        0x03 => bytes.read_u32().map(u64::from),
        0x0b => bytes.read_i32().map(|number| i64::from(number).cast_unsigned()),
        0x00 | 0x04 | 0x0c => bytes.read_u64(),
        _ => Err(gimli::Error::UnknownPointerEncoding(gimli::DwEhPe(encoding))),
    }
}
