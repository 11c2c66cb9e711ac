//! Reading a configuration file, whatever a path may name.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use crate::limits::CONFIG_LEN_MAX;

/// Reads a configuration file as text.
///
/// # Errors
/// As the system words them, and [`io::ErrorKind::FileTooLarge`] for more than
/// [`CONFIG_LEN_MAX`] bytes; no more than that is read of a file whose length says nothing.
pub fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(CONFIG_LEN_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > CONFIG_LEN_MAX {
        let problem = format!("it is longer than {CONFIG_LEN_MAX} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, problem));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_is_bounded_in_length_also_where_its_length_is_not_known() {
        let longest = "#".repeat(usize::try_from(CONFIG_LEN_MAX).unwrap());
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &longest).unwrap();
        assert_eq!(read(file.path()).unwrap(), longest);
        std::fs::write(file.path(), longest + "#").unwrap();
        for path in [file.path(), Path::new("/dev/zero")] {
            let error = read(path).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
            assert_eq!(error.to_string(), "it is longer than 1048576 bytes");
        }
    }
}
