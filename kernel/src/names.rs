//! The names of the code's functions, for backtraces: a table that the image's builder has made.
//!
//! The table is a count, then for each function, in order, where it starts in the code and where its name ends among
//! the names, then all names, one behind the other. Numbers have four bytes, little end first.
//! `tools/src/kernel/names.rs` writes it, with the names made readable already: so nothing is parsed, copied or
//! allocated here, where something has gone wrong. Whatever the table holds, a look-up does not fail worse than by
//! finding nothing.

/// Where a function starts, and where its name ends.
type Entry = [[u8; 4]; 2];

/// A table of names.
#[derive(Clone, Copy, Debug)]
pub struct Names<'a> {
    functions: &'a [Entry],
    names: &'a [u8],
}

impl<'a> Names<'a> {
    /// Reads a table. None: it is no whole one.
    pub fn new(table: &'a [u8]) -> Option<Self> {
        let (count, rest) = table.split_first_chunk()?;
        let (words, _) = rest.as_chunks();
        let (functions, _) = words.as_chunks();
        let functions = functions.get(..number(count))?;
        let names = rest.get(size_of_val(functions)..)?;
        Some(Self { functions, names })
    }

    /// The function in which `at` lies, a distance from the start of the code, and how far into the function that is.
    pub fn find(&self, at: u64) -> Option<(&'a str, u64)> {
        let starts_before = |[start, _]: &Entry| number(start) as u64 <= at;
        let index = self
            .functions
            .partition_point(starts_before)
            .checked_sub(1)?;
        let [start, end] = self.functions.get(index)?;
        let begin = match index.checked_sub(1) {
            Some(before) => number(&self.functions.get(before)?[1]),
            None => 0,
        };
        let name = self.names.get(begin..number(end))?;
        let into = at.checked_sub(number(start) as u64)?;
        Some((core::str::from_utf8(name).ok()?, into))
    }
}

fn number(bytes: &[u8; 4]) -> usize {
    u32::from_le_bytes(*bytes) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    fn table(functions: &[(u32, u32)], names: &str) -> Vec<u8> {
        let mut table = (functions.len() as u32).to_le_bytes().to_vec();
        for (start, end) in functions {
            table.extend(start.to_le_bytes());
            table.extend(end.to_le_bytes());
        }
        table.extend(names.as_bytes());
        table
    }

    #[test]
    fn an_address_is_of_the_last_function_that_starts_before_it() {
        let table = table(&[(16, 3), (64, 9)], "onesecond");
        let names = Names::new(&table).unwrap();
        assert_eq!(names.find(15), None);
        assert_eq!(names.find(16), Some(("one", 0)));
        assert_eq!(names.find(63), Some(("one", 47)));
        assert_eq!(names.find(64), Some(("second", 0)));
        assert_eq!(names.find(1 << 40), Some(("second", (1 << 40) - 64)));
    }

    #[test]
    fn a_table_of_nothing_and_a_broken_one_find_nothing() {
        assert!(Names::new(&[]).is_none());
        assert!(Names::new(&[9, 0, 0, 0, 1]).is_none());
        assert!(Names::new(&[255; 40]).is_none());
        assert_eq!(Names::new(&table(&[], "")).unwrap().find(5), None);
        let broken = table(&[(0, 5), (8, 3), (16, 900)], "names");
        let names = Names::new(&broken).unwrap();
        assert_eq!(names.find(0), Some(("names", 0)));
        assert_eq!(names.find(8), None);
        assert_eq!(names.find(16), None);
    }
}
