//! Launches as an engine makes them: on its own stream and memory, in place, recorded and replayed, one early behind
//! another, with bytes around every result that nobody may write.

use std::{collections::BTreeSet, sync::Arc};

use normfuse_ir::{
    DType, ErrorKind, FusedNorm, Granularity, Tensor,
    body::bits_equal,
    fused::{InPort, Sibling},
};
use normfuse_runtime::{
    cpu,
    cuda::{Arguments, Buffer, Compiler, Device, FusedNormKernel, LaunchShape, Operand, Region, regimes::Regimes},
};

use crate::{compiler, or_skip, schemes, variants};

/// Bytes before and behind each result.
const GUARD: usize = 256;
/// What they are.
const UNTOUCHED: u8 = 0xa5;

fn gpu() -> Option<(Device, Compiler)> {
    or_skip(Device::open(0)).zip(compiler())
}

fn kernel((device, compiler): &(Device, Compiler), norm: &FusedNorm, rows: u64) -> FusedNormKernel {
    FusedNormKernel::new(device, *compiler, norm, LaunchShape::choose(norm, rows, true)).unwrap()
}

/// The op on the CPU.
fn on_cpu(norm: &FusedNorm, operands: &[Tensor]) -> Vec<Tensor> {
    let inputs: Vec<Option<&Tensor>> = operands.iter().map(Some).collect();
    cpu::fused_norm(norm, &inputs).unwrap()
}

fn same(want: &Tensor, bytes: Vec<u8>) -> Option<String> {
    let found = Tensor::from_bytes(want.dtype(), want.shape().to_vec(), bytes).unwrap();
    bits_equal(want, &found).map(|m| m.to_string())
}

fn filled(device: &Device, len: usize) -> Buffer {
    let mut buffer = device.alloc(len).unwrap();
    buffer.fill(UNTOUCHED).unwrap();
    buffer
}

/// An operand's memory, of rows that lie apart where they are asked to: of a wider tensor, which is NaN elsewhere.
fn operand(device: &Device, tensor: &Tensor, apart: Option<u64>) -> (Buffer, Option<u64>) {
    let Some(by) = apart else { return (device.upload(tensor.bytes()).unwrap(), None) };
    let width = *tensor.shape().last().unwrap();
    let size = tensor.dtype().bits() / 8;
    let gap = vec![0xff; by as usize * size];
    let rows: Vec<&[u8]> = tensor.bytes().chunks(width * size).collect();
    (device.upload(&rows.join(&gap[..])).unwrap(), Some(width as u64 + by))
}

/// Every descriptor of some widths, on an engine's own stream, in memory between guards: the bits are the CPU's, and the
/// guards are as they were. What compute-sanitizer is run on: rows that are loaded and copied, shared by a cluster and divided.
#[test]
fn nothing_is_written_beside_a_result() {
    let Some(gpu) = gpu() else { return };
    let (device, compiler) = &gpu;
    let (mut cells, mut shapes) = (0, BTreeSet::new());
    let measured = Regimes::of_arch("sm_90").unwrap();
    let widths = [(7, 5), (33, 7), (128, 2), (576, 9), (4096, 11), (16_384, 17), (18_432, 19), (32_768, 23)];
    for (width, every) in widths {
        for (i, norm) in variants::of_width(width).iter().enumerate().step_by(every) {
            let rows = [1, 3, 19, 130][i % 4];
            let operands = variants::operands(norm, rows, i as u64);
            let want = on_cpu(norm, &operands);
            let in_order = norm.siblings.iter().flat_map(|s| &s.epilogues).all(|s| s.layout.is_in_order());
            let aligned = width % 8 == 0 && i % 4 != 1;
            let many = if i % 2 == 0 { 1 } else { 4096 };
            let shape = match i % 3 {
                0 => LaunchShape::choose(norm, many, aligned).clustered(norm, many),
                _ => measured.choose(norm, many, aligned),
            };
            shapes.insert((shape.bulk, shape.cluster(0) > 1, shape.pieces > 1));
            let kernel = FusedNormKernel::new(device, *compiler, norm, shape).unwrap();
            let apart = |port: &InPort| (i % 5 < 2 && norm.rows_dtype(*port).is_some()).then_some(24);
            let inputs: Vec<(Buffer, Option<u64>)> =
                norm.in_ports().iter().zip(&operands).map(|(port, t)| operand(device, t, apart(port))).collect();
            // Column-major layouts may have room behind the rows.
            let sizes: Vec<usize> = want.iter().map(|t| t.bytes().len() * rows.next_multiple_of(4) / rows).collect();
            let outputs: Vec<Buffer> = sizes.iter().map(|n| filled(device, n + 2 * GUARD)).collect();
            let scratch = device.upload(&[0; 64]).unwrap();
            let inside = |b: &Buffer| Region::new(b.address() + GUARD as u64, (b.len() - 2 * GUARD) as u64);
            let jobs = if norm.source == normfuse_ir::fused::Source::Shared { 1 } else { norm.siblings.len() };
            let arguments = Arguments {
                inputs: inputs.iter().map(|(b, stride)| Operand { region: b.region(), stride: *stride }).collect(),
                outputs: outputs.iter().map(inside).collect(),
                rows: vec![rows as u64; jobs],
                scratch: Some(scratch.region()),
            };
            let params = kernel.check(&arguments).unwrap();
            // The fills are on the device's stream, the launch is not.
            device.wait().unwrap();
            let stream = device.stream().fork().unwrap();
            // SAFETY: the buffers live until they are downloaded below, after the stream is done.
            unsafe { kernel.launch(stream.cu_stream(), &params, i % 2 == 0) }.unwrap();
            stream.synchronize().unwrap();
            for ((port, want), (buffer, size)) in norm.out_ports().iter().zip(&want).zip(outputs.iter().zip(&sizes)) {
                let bytes = buffer.download().unwrap();
                let (before, rest) = bytes.split_at(GUARD);
                let (found, behind) = rest.split_at(*size);
                let clean = before.iter().chain(behind).all(|b| *b == UNTOUCHED);
                assert!(clean, "{port} of {rows} rows: bytes beside it were written\n{norm:?}\n{:?}", kernel.shape());
                if in_order {
                    let (found, room) = found.split_at(want.bytes().len());
                    assert!(room.iter().all(|b| *b == UNTOUCHED), "{port} of {rows} rows\n{norm:?}");
                    let differs = same(want, found.to_vec());
                    assert!(differs.is_none(), "{port} of {rows} rows: {differs:?}\n{norm:?}\n{:?}", kernel.shape());
                }
            }
            cells += 1;
        }
    }
    eprintln!("{}: {cells} launches between guards, of {} kinds", device.name(), shapes.len());
    assert!(shapes.len() >= 4, "loaded, copied, in clusters, in pieces: {shapes:?}");
    assert!(cells >= 60, "{cells}");
}

/// Three norms, each over what the one before it wrote, recorded once: in order, early or not, as often as it is replayed.
#[test]
fn a_recorded_chain_has_the_bits_of_its_parts() {
    let Some(gpu) = gpu() else { return };
    let (device, _) = &gpu;
    let (rows, width) = (37, 4096);
    let plain = FusedNorm::of(vec![Sibling::plain(width, DType::BF16)]);
    let last = variants::quantised(width, vec![schemes::linear(Granularity::Group(128))]);
    let operands = variants::operands(&plain, rows, 3);
    let (x, weight) = (&operands[0], &operands[1]);
    let first = on_cpu(&plain, &[x.clone(), weight.clone()]).remove(0);
    let second = on_cpu(&plain, &[first, weight.clone()]).remove(0);
    let want = on_cpu(&last, &[second, weight.clone()]);
    let kernels = [kernel(&gpu, &plain, rows as u64), kernel(&gpu, &last, rows as u64)];
    for early in [false, true] {
        let up = |t: &Tensor| Arc::new(device.upload(t.bytes()).unwrap());
        let (x_in, weight_in, y) = (up(x), up(weight), Arc::new(filled(device, x.bytes().len())));
        let out: Vec<Arc<Buffer>> = want.iter().map(|t| Arc::new(filled(device, t.bytes().len()))).collect();
        let kept: Vec<Arc<Buffer>> = [&x_in, &weight_in, &y].into_iter().chain(&out).cloned().collect();
        let arguments = |from: &Buffer, to: Vec<Region>| Arguments {
            inputs: vec![from.region().into(), weight_in.region().into()],
            outputs: to,
            rows: vec![rows as u64],
            scratch: None,
        };
        let graph = device
            .record(kept, |r| {
                r.launch(&kernels[0], &arguments(&x_in, vec![y.region()]), early)?;
                // In place.
                r.launch(&kernels[0], &arguments(&y, vec![y.region()]), early)?;
                r.launch(&kernels[1], &arguments(&y, out.iter().map(|b| b.region()).collect()), early)
            })
            .unwrap();
        assert_eq!(graph.launches(), 3);
        assert!(out[0].download().unwrap().iter().all(|b| *b == UNTOUCHED), "recording runs nothing");
        for replay in 0..3 {
            graph.replay().unwrap();
            for (want, buffer) in want.iter().zip(&out) {
                assert_eq!(same(want, buffer.download().unwrap()), None, "early: {early}, replay {replay}");
            }
        }
        // On a stream of the engine's, after its own memory is gone from here.
        drop((x_in, weight_in));
        let stream = device.stream().fork().unwrap();
        // SAFETY: the graph keeps its buffers and outlives the wait.
        unsafe { graph.replay_on(stream.cu_stream()) }.unwrap();
        stream.synchronize().unwrap();
        assert_eq!(same(&want[0], out[0].download().unwrap()), None);
    }
}

#[test]
fn a_recording_keeps_to_its_buffers() {
    let Some(gpu) = gpu() else { return };
    let (device, _) = &gpu;
    let norm = FusedNorm::of(vec![Sibling::plain(64, DType::BF16)]);
    let kernel = kernel(&gpu, &norm, 4);
    let buffers: Vec<Arc<Buffer>> = (0..3).map(|_| Arc::new(filled(device, 512))).collect();
    let arguments = Arguments {
        inputs: buffers[..2].iter().map(|b| Operand::from(b.region())).collect(),
        outputs: vec![buffers[2].region()],
        rows: vec![4],
        scratch: None,
    };
    let error = device.record(buffers[..2].to_vec(), |r| r.launch(&kernel, &arguments, false)).unwrap_err();
    assert!(error.kind == ErrorKind::Value && error.to_string().contains("y0"), "{error}");
    assert!(error.to_string().contains("a buffer that the recording keeps"), "{error}");
    // Nothing is left of it: the next one records.
    let graph = device.record(buffers.clone(), |r| r.launch(&kernel, &arguments, false)).unwrap();
    assert_eq!(graph.launches(), 1);
    let error = device.record(buffers, |_| Ok(())).unwrap_err();
    assert!(error.to_string().contains("expected launches to record"), "{error}");
}

/// More memory than any GPU has is an error that says how much was asked for, and the device works on.
#[test]
fn memory_that_is_not_there_is_an_error() {
    let Some(gpu) = gpu() else { return };
    let (device, _) = &gpu;
    let error = device.alloc(1 << 50).unwrap_err();
    let said = error.to_string();
    assert!(said.contains("allocating 1125899906842624 bytes") && said.contains("OUT_OF_MEMORY"), "{said}");
    let norm = FusedNorm::of(vec![Sibling::plain(64, DType::BF16)]);
    let operands = variants::operands(&norm, 4, 0);
    let inputs: Vec<Option<&Tensor>> = operands.iter().map(Some).collect();
    let found = kernel(&gpu, &norm, 4).run(&inputs).unwrap();
    assert_eq!(bits_equal(&on_cpu(&norm, &operands)[0], &found[0]).map(|m| m.to_string()), None);
}
