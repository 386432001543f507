//! Zip archives in mapped files.

use std::io::Cursor;

use zip::{
    ZipArchive,
    read::{ArchiveOffset, Config},
    result::ZipResult,
};

/// Reads an archive's directory. The archive is the whole file: the library would otherwise look for where it begins,
/// and takes the second record of some of torch's archives for the first.
///
/// # Errors
/// What is no zip archive, or one that is cut off.
pub fn open(bytes: &[u8]) -> ZipResult<ZipArchive<Cursor<&[u8]>>> {
    ZipArchive::with_config(Config { archive_offset: ArchiveOffset::Known(0) }, Cursor::new(bytes))
}
