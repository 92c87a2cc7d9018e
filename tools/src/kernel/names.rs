//! Puts the names of the kernel's functions into its image, for the backtraces of panics and of the watchdog.
//!
//! The linker script leaves the image's last segment to us, with one word in it, which counts the bytes behind it. We
//! append a copy of the segment with the table at the file's end, and have the headers say so: every loader that goes by
//! the headers loads it. `kernel/src/names.rs` says what the table is made of, and reads it.
//!
//! Decision: the symbol table that the linker has made is read after the link, as linking twice would optimise the whole
//! kernel twice; and a segment that grows needs no room set aside. See docs/decisions/names.md.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use object::elf::{PT_LOAD, ProgramHeader64, SectionHeader64};
use object::read::elf::{ElfFile64, FileHeader, ProgramHeader};
use object::{LittleEndian as Endian, Object, ObjectSection, ObjectSymbol, SymbolKind};
use tempfile::NamedTempFile;

const SECTION: &str = ".names";
const PAGE: usize = 4096;

/// Writes the kernel `linked` with the names of its functions to `named`, whole or not at all.
pub fn add(linked: &Path, named: &Path) -> Result<()> {
    let image = fs::read(linked).with_context(|| format!("cannot read {}", linked.display()))?;
    let image =
        with_names(image).with_context(|| format!("cannot put names into {}", linked.display()))?;
    let folder = named.parent().unwrap_or(Path::new("."));
    let mut file = NamedTempFile::new_in(folder)?;
    file.write_all(&image)?;
    fs::set_permissions(file.path(), fs::metadata(linked)?.permissions())?;
    file.persist(named)?;
    Ok(())
}

/// The image with a table of names in its last segment.
fn with_names(mut image: Vec<u8>) -> Result<Vec<u8>> {
    let file = ElfFile64::<Endian>::parse(&*image)?;
    let table = table(&functions(&file)?)?;
    let section = file
        .section_by_name(SECTION)
        .context("it has no section for them")?;
    let (address, section) = (section.address(), section.index().0);
    let segments = file.elf_program_headers();
    let loads = |segment: &ProgramHeader64<Endian>| {
        segment.p_type(Endian) == PT_LOAD && segment.p_vaddr(Endian) == address
    };
    let segment = segments.iter().position(loads);
    let segment = segment.context("no segment loads that section alone")?;
    ensure!(
        segments.iter().all(|each| each.p_vaddr(Endian) <= address),
        "the segment for them is not the last"
    );
    let header = file.elf_header();
    let at = |table: u64, size: u16, index: usize| table as usize + usize::from(size) * index;
    let segment = at(header.e_phoff(Endian), header.e_phentsize(Endian), segment);
    let section = at(header.e_shoff(Endian), header.e_shentsize(Endian), section);

    image.resize(image.len().next_multiple_of(PAGE), 0);
    let offset = image.len() as u64;
    image.extend((table.len() as u64).to_le_bytes());
    image.extend(table);
    let len = image.len() as u64 - offset;
    let segment: &mut ProgramHeader64<Endian> = header_at(&mut image, segment)?;
    segment.p_offset.set(Endian, offset);
    segment.p_filesz.set(Endian, len);
    segment.p_memsz.set(Endian, len);
    let section: &mut SectionHeader64<Endian> = header_at(&mut image, section)?;
    section.sh_offset.set(Endian, offset);
    section.sh_size.set(Endian, len);
    Ok(image)
}

fn header_at<T: object::Pod>(image: &mut [u8], at: usize) -> Result<&mut T> {
    let header = image
        .get_mut(at..)
        .and_then(|bytes| object::from_bytes_mut(bytes).ok());
    header
        .map(|(header, _)| header)
        .context("a header lies outside")
}

/// What the symbol table knows of the code: each function's name by its distance from the code's start.
fn functions(file: &ElfFile64<'_, Endian>) -> Result<BTreeMap<u32, String>> {
    let text = file.section_by_name(".text").context("it has no code")?;
    let mut functions = BTreeMap::new();
    let of_text = file
        .symbols()
        .filter(|symbol| symbol.section_index() == Some(text.index()));
    for symbol in of_text {
        let Some(at) = symbol.address().checked_sub(text.address()) else {
            continue;
        };
        let name = symbol.name()?;
        if at >= text.size() || name.is_empty() {
            continue;
        }
        let name = format!("{:#}", rustc_demangle::demangle(name));
        // A function's name is better than that of a label at the same place.
        if symbol.kind() == SymbolKind::Text {
            functions.insert(u32::try_from(at)?, name);
        } else {
            functions.entry(u32::try_from(at)?).or_insert(name);
        }
    }
    ensure!(!functions.is_empty(), "it has no symbols");
    Ok(functions)
}

/// The table, in the kernel's form.
fn table(functions: &BTreeMap<u32, String>) -> Result<Vec<u8>> {
    let mut table = u32::try_from(functions.len())?.to_le_bytes().to_vec();
    let mut end = 0;
    for (start, name) in functions {
        end += u32::try_from(name.len())?;
        table.extend(start.to_le_bytes());
        table.extend(end.to_le_bytes());
    }
    table.extend(functions.values().flat_map(|name| name.bytes()));
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kernel::names::Names;

    #[test]
    fn the_kernel_reads_what_is_written() {
        let functions = [(0, "trap_stubs"), (16, "kernel::run::<u8>"), (40, "last")];
        let functions = functions.map(|(at, name)| (at, name.to_owned())).into();
        let table = table(&functions).unwrap();
        let names = Names::new(&table).unwrap();
        assert_eq!(names.find(3), Some(("trap_stubs", 3)));
        assert_eq!(names.find(16), Some(("kernel::run::<u8>", 0)));
        assert_eq!(names.find(100), Some(("last", 60)));
    }

    #[test]
    fn what_is_no_kernel_is_refused() {
        assert!(with_names(b"no ELF".to_vec()).is_err());
        let host = fs::read(std::env::current_exe().unwrap()).unwrap();
        let error = with_names(host).unwrap_err();
        assert!(error.to_string().contains("no section for them"), "{error}");
    }
}
