//! Standard output: where results go, and nothing else.

use std::io::{self, Write};

use normfuse::formats::FormatError;

use super::failure::Result;

/// Writes a result to standard output. A reader that has gone away is not an error.
pub fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
            Err(FormatError::from(e).in_file(std::path::Path::new("<stdout>")).into())
        }
        _ => Ok(()),
    }
}
