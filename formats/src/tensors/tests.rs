use std::{fs, io::Write, path::PathBuf};

use proptest::prelude::*;
use zip::write::SimpleFileOptions;

use super::*;

/// A tensor of every kind that numpy has, with a scalar, an empty and a long shape among them.
fn numpy_tensors() -> Vec<(String, Tensor)> {
    let shapes = [vec![], vec![0], vec![3], vec![2, 3], vec![1, 2, 1, 2]];
    let numpy = DType::ALL.into_iter().filter(|d| d.is_int() || *d == DType::Bool || d.is_arithmetic_float());
    numpy
        .filter(|d| *d != DType::BF16)
        .enumerate()
        .map(|(i, dtype)| {
            let shape = shapes[i % shapes.len()].clone();
            let n = shape.iter().product::<usize>() * dtype.bits() / 8;
            let bytes = (0..n).map(|b| if dtype == DType::Bool { b % 2 } else { b * 37 } as u8).collect();
            (format!("out.{dtype}/x"), Tensor::from_bytes(dtype, shape, bytes).unwrap())
        })
        .collect()
}

fn same(a: &[(String, Tensor)], b: &[(String, Tensor)]) {
    assert_eq!(a.len(), b.len());
    for ((m, x), (n, y)) in a.iter().zip(b) {
        assert_eq!((m, x.dtype(), x.shape(), x.bytes()), (n, y.dtype(), y.shape(), y.bytes()));
    }
}

struct Dir(tempfile::TempDir);

impl Dir {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Reads bytes as a file of that name.
    fn read(&self, name: &str, bytes: &[u8]) -> Result<Vec<(String, Tensor)>> {
        let path = self.path(name);
        fs::write(&path, bytes).unwrap();
        read(&path)
    }

    fn fails(&self, name: &str, bytes: &[u8], want: &str) {
        let e = self.read(name, bytes).unwrap_err().to_string();
        assert!(e.contains(want) && e.contains(name), "wanted {want}, found {e}");
    }
}

/// An archive of raw entries.
fn archive(entries: &[(&str, &[u8])], method: zip::CompressionMethod) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, bytes) in entries {
        zip.start_file(*name, SimpleFileOptions::default().compression_method(method)).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

/// A `.npy` with a header of our choice.
fn npy(version: u8, header: &str, data: &[u8]) -> Vec<u8> {
    let mut out = b"\x93NUMPY".to_vec();
    out.extend([version, 0]);
    match version {
        1 => out.extend((header.len() as u16).to_le_bytes()),
        _ => out.extend((header.len() as u32).to_le_bytes()),
    }
    out.extend(header.as_bytes());
    out.extend(data);
    out
}

fn one(entry: &[u8]) -> Vec<u8> {
    archive(&[("x.npy", entry)], zip::CompressionMethod::Stored)
}

#[test]
fn npz_round_trips_in_order_and_is_reproducible() {
    let dir = Dir::new();
    let tensors = numpy_tensors();
    write(&dir.path("a.npz"), &tensors).unwrap();
    same(&read(&dir.path("a.npz")).unwrap(), &tensors);
    write(&dir.path("b.npz"), &tensors).unwrap();
    assert_eq!(fs::read(dir.path("a.npz")).unwrap(), fs::read(dir.path("b.npz")).unwrap());
}

#[test]
fn npy_headers_of_all_versions_and_orders() {
    let dir = Dir::new();
    let data: Vec<u8> = (0..6u16).flat_map(u16::to_le_bytes).collect();
    for version in 1..=3 {
        for method in [zip::CompressionMethod::Stored, zip::CompressionMethod::Deflated] {
            let entry = npy(version, "{'descr': '<u2', 'fortran_order': False, 'shape': (2, 3), }   \n", &data);
            let t = dir.read("v.npz", &archive(&[("x.npy", &entry)], method)).unwrap().remove(0).1;
            assert_eq!((t.dtype(), t.shape(), t.bytes()), (DType::U16, &[2, 3][..], &data[..]));
        }
    }
    // Column-major 2x3: stored 0 1 | 2 3 | 4 5, so rows are 0 2 4 and 1 3 5.
    let entry = npy(1, "{\"shape\": (2, 3), \"fortran_order\": True, \"descr\": \"<u2\"}", &data);
    let t = dir.read("f.npz", &one(&entry)).unwrap().remove(0).1;
    let want: Vec<u8> = [0u16, 2, 4, 1, 3, 5].into_iter().flat_map(u16::to_le_bytes).collect();
    assert_eq!(t.bytes(), want);
    for (shape, n) in [("()", 1), ("(1,)", 1), ("(0, 9999999)", 0), ("(1, 1, 1, 1)", 1)] {
        for fortran in ["True", "False"] {
            let header = format!("{{'descr': '<u2', 'fortran_order': {fortran}, 'shape': {shape}}}");
            let t = dir.read("s.npz", &one(&npy(1, &header, &data[..2 * n]))).unwrap().remove(0).1;
            assert_eq!(t.len(), n, "{shape}");
        }
    }
}

#[test]
fn column_major_of_three_axes() {
    let dir = Dir::new();
    let shape = [2usize, 3, 4];
    let mut stored = vec![0u8; 24];
    let mut want = Vec::new();
    for i in 0..2 {
        for j in 0..3 {
            for k in 0..4 {
                let v = (i * 100 + j * 10 + k) as u8;
                stored[i + 2 * j + 6 * k] = v;
                want.push(v);
            }
        }
    }
    let entry = npy(1, "{'descr': '|u1', 'fortran_order': True, 'shape': (2, 3, 4), }", &stored);
    let t = dir.read("f.npz", &one(&entry)).unwrap().remove(0).1;
    assert_eq!((t.shape(), t.bytes()), (&shape[..], &want[..]));
}

#[test]
fn bad_arrays_are_refused_without_large_allocations() {
    let dir = Dir::new();
    let header = |descr: &str, shape: &str| format!("{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}");
    let cases = [
        (npy(1, &header("'<f4'", "(4,)"), &[0; 15]), "expected 16 bytes, found 15 bytes: the array is truncated"),
        (npy(1, &header("'<f4'", "(3,)"), &[0; 16]), "expected 12 bytes of data"),
        (npy(1, &header("'<f4'", "(1099511627776,)"), &[0; 16]), "expected 4398046511104 bytes, found 16 bytes"),
        (npy(1, &header("'<f4'", "(4611686018427387904, 4)"), &[]), "too large to address"),
        (npy(1, &header("'<f4'", "(99999999999999999999,)"), &[]), "expected sizes"),
        (npy(1, &header("'<f4'", "(-1,)"), &[]), "expected sizes"),
        (npy(1, &header("'>f4'", "(1,)"), &[0; 4]), "newbyteorder"),
        (npy(1, &header("'<V2'", "(1,)"), &[0; 2]), "use a .safetensors file"),
        (npy(1, &header("'bfloat16'", "(1,)"), &[0; 2]), "use a .safetensors file"),
        (npy(1, &header("'<c8'", "(1,)"), &[0; 8]), "found `<c8`"),
        (npy(1, &header("[('a', '<f4')]", "(1,)"), &[0; 4]), "expected one element type"),
        (npy(1, &header("'|b1'", "(2,)"), &[1, 2]), "expected bools of 0 or 1, found 2"),
        (npy(1, "{'descr': '<f4'}", &[]), "the keys descr, fortran_order and shape"),
        (npy(1, "{'x': 1}", &[]), "only the keys"),
        (npy(1, "{} junk", &[]), "nothing after"),
        (npy(1, "'", &[]), "expected `{`"),
        (npy(4, "{}", &[]), "expected .npy version 1, 2 or 3, found 4"),
        ([b"\x93NUMPY\x02\x00".as_slice(), &u32::MAX.to_le_bytes()].concat(), "a .npy header of at most 65536 bytes"),
        (b"\x93NUM".to_vec(), "found the end of the data"),
        (b"GARBAGE!".to_vec(), "expected a .npy header, found other bytes"),
    ];
    for (entry, want) in cases {
        dir.fails("x.npz", &one(&entry), want);
    }
}

#[test]
fn bad_archives_are_refused() {
    let dir = Dir::new();
    dir.fails("x.npz", b"", "zip");
    dir.fails("x.npz", b"not a zip", "zip");
    let good = {
        write(&dir.path("good.npz"), &numpy_tensors()).unwrap();
        fs::read(dir.path("good.npz")).unwrap()
    };
    for n in (0..good.len()).step_by(7) {
        assert!(dir.read("cut.npz", &good[..n]).is_err(), "cut at {n}");
    }
    dir.fails("x.npz", &archive(&[("readme.txt", b"hi")], zip::CompressionMethod::Stored), "arrays named NAME.npy");
    // A flipped byte of the data fails the checksum.
    let entry = npy(1, "{'descr': '|u1', 'fortran_order': False, 'shape': (4,), }", b"DATA");
    let mut bytes = one(&entry);
    let at = bytes.windows(4).position(|w| w == b"DATA").unwrap();
    bytes[at] = b'X';
    dir.fails("x.npz", &bytes, "hecksum");
    // An end record that claims very many entries.
    let mut bytes = good.clone();
    let end = bytes.len() - 22;
    bytes[end + 8..end + 12].fill(0xff);
    assert!(dir.read("many.npz", &bytes).is_err());
    // The same through the 64-bit records: 2^40 entries in a directory of 2^60 bytes.
    let mut bytes = b"PK\x06\x06".to_vec();
    bytes.extend(44u64.to_le_bytes());
    bytes.extend([45, 0, 45, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    for claim in [1u64 << 40, 1 << 40, 1 << 60, 1 << 59] {
        bytes.extend(claim.to_le_bytes());
    }
    bytes.extend(b"PK\x06\x07\0\0\0\0");
    bytes.extend(0u64.to_le_bytes());
    bytes.extend(1u32.to_le_bytes());
    bytes.extend(b"PK\x05\x06\0\0\0\0");
    bytes.extend([0xff; 12]);
    bytes.extend([0, 0]);
    dir.fails("many64.npz", &bytes, "zip");
    assert!(read(&dir.path("gone.npz")).unwrap_err().to_string().contains("gone.npz"));
    assert!(read(&dir.path("x.txt")).unwrap_err().to_string().contains("expected a .npz or .safetensors file"));
}

#[test]
fn safetensors_round_trips_every_dtype() {
    let dir = Dir::new();
    let tensors: Vec<_> = DType::ALL
        .into_iter()
        .map(|dtype| {
            let n = 4 * dtype.bits() / 8;
            let bytes = (0..n).map(|b| if dtype == DType::Bool { b % 2 } else { b * 41 } as u8).collect();
            (dtype.to_string(), Tensor::from_bytes(dtype, vec![2, 2], bytes).unwrap())
        })
        .chain([("empty".into(), Tensor::from_f32(&[0], &[])), ("also".into(), Tensor::from_f32(&[3, 0], &[]))])
        .collect();
    let path = dir.path("a.safetensors");
    write(&path, &tensors).unwrap();
    let mut back = read(&path).unwrap();
    let order: Vec<String> = back.iter().map(|(n, _)| n.clone()).collect();
    assert_eq!(order, read(&path).unwrap().into_iter().map(|(n, _)| n).collect::<Vec<_>>());
    let by_name = |v: &mut Vec<(String, Tensor)>| v.sort_by(|a, b| a.0.cmp(&b.0));
    let mut tensors = tensors;
    by_name(&mut tensors);
    by_name(&mut back);
    same(&back, &tensors);
}

#[test]
fn what_a_format_lacks_is_refused_and_leaves_no_file() {
    let dir = Dir::new();
    let bf16 = Tensor::from_bytes(DType::BF16, vec![1], vec![0, 0]).unwrap();
    let e = write(&dir.path("a.npz"), &[("w".into(), bf16)]).unwrap_err().to_string();
    assert!(e.contains("tensor `w`") && e.contains("found bf16 (write a .safetensors file"), "{e}");
    let odd = Tensor::from_bytes(DType::F4E2M1, vec![3], vec![0, 0]).unwrap();
    let e = write(&dir.path("a.safetensors"), &[("w".into(), odd)]).unwrap_err().to_string();
    assert!(e.contains("expected an even number of 4-bit elements, found 3"), "{e}");
    let x = Tensor::from_f32(&[], &[1.0]);
    let twice = [("x".to_owned(), x.clone()), ("x".to_owned(), x)];
    for name in ["b.npz", "b.safetensors"] {
        assert!(write(&dir.path(name), &twice).unwrap_err().to_string().contains("`x` twice"));
    }
    assert_eq!(fs::read_dir(dir.0.path()).unwrap().count(), 0);
}

/// A `.safetensors` file with a header of our choice.
fn safetensors_file(header: &str, data: usize) -> Vec<u8> {
    let mut out = (header.len() as u64).to_le_bytes().to_vec();
    out.extend(header.as_bytes());
    out.resize(out.len() + data, 2);
    out
}

#[test]
fn bad_safetensors_are_refused() {
    let dir = Dir::new();
    let info = |dtype: &str, shape: &str, end: &str| {
        format!("{{\"x\": {{\"dtype\": \"{dtype}\", \"shape\": {shape}, \"data_offsets\": [0, {end}]}}}}")
    };
    let cases = [
        (vec![], "no whole .safetensors file"),
        (vec![0; 7], "no whole .safetensors file"),
        (u64::MAX.to_le_bytes().to_vec(), "no whole .safetensors file"),
        (safetensors_file(&info("F32", "[2]", "8"), 7), "no whole .safetensors file"),
        (safetensors_file(&info("F32", "[2]", "8"), 9), "no whole .safetensors file"),
        (safetensors_file(&info("F32", "[3]", "8"), 8), "no whole .safetensors file"),
        (safetensors_file(&info("F32", "[9223372036854775807, 9]", "8"), 8), "no whole .safetensors file"),
        (safetensors_file(&info("F32", "[2]", "18446744073709551615"), 8), "no whole .safetensors file"),
        (safetensors_file(&info("WAT", "[2]", "8"), 8), "no whole .safetensors file"),
        (safetensors_file(&info("C64", "[1]", "8"), 8), "tensor `x`: expected an element type that the IR knows"),
        (safetensors_file(&info("BOOL", "[2]", "2"), 2), "tensor `x`: expected bools of 0 or 1, found 2"),
    ];
    for (bytes, want) in cases {
        dir.fails("x.safetensors", &bytes, want);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Damage anywhere gives tensors or an error, never a panic.
    #[test]
    fn damage_never_panics(at in 0usize..4000, value: u8, cut in 0usize..4000) {
        let dir = Dir::new();
        for name in ["a.npz", "a.safetensors"] {
            write(&dir.path(name), &numpy_tensors()).unwrap();
            let mut bytes = fs::read(dir.path(name)).unwrap();
            let n = bytes.len();
            bytes[at % n] = value;
            let _ = dir.read(name, &bytes);
            bytes.truncate(cut % n);
            let _ = dir.read(name, &bytes);
        }
    }

    #[test]
    fn any_bytes_round_trip(rows in 0usize..5, cols in 0usize..5, seed: u64) {
        let dir = Dir::new();
        let bytes: Vec<u8> = (0..rows * cols * 4).map(|i| (seed >> (i % 57)) as u8).collect();
        let t = Tensor::from_bytes(DType::F32, vec![rows, cols], bytes).unwrap();
        for name in ["a.npz", "a.safetensors"] {
            let tensors = [("a b/\u{e9}".to_owned(), t.clone())];
            write(&dir.path(name), &tensors).unwrap();
            same(&read(&dir.path(name)).unwrap(), &tensors);
        }
    }
}
