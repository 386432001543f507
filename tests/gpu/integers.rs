//! Products of 8-bit integers by the library: which it has, and that they are exact.

use std::io::{self, Write};

use normfuse::{
    cuda::{
        exec::Product,
        product::{Addend, Plain, Products, Run, Side, Sizes},
    },
    ir::{DType, Op, Tensor, eval},
};

use crate::{Gpu, gpu};

fn plain(m: usize, k: usize, n: usize) -> Plain {
    let side = |trans| Side { trans, lead: k };
    let runs = vec![Run { count: 1, a: 0, b: 0, d: 0, a_step: 0, b_step: 0 }];
    Plain {
        dtype: DType::I8,
        result: DType::I32,
        sizes: Sizes { m, k, n, a: side(false), b: side(true), runs },
        alpha: 1.0,
        beta: 0.0,
        addend: Addend::None,
        bytes: 4 * m * n,
    }
}

/// All codes, -128 among them.
fn codes(shape: &[usize], seed: usize) -> Tensor {
    let count: usize = shape.iter().product();
    let bytes = (0..count).map(|i| ((i + seed).wrapping_mul(0x9e37_79b9) >> 11) as u8).collect();
    Tensor::from_bytes(DType::I8, shape.to_vec(), bytes).unwrap()
}

fn multiply((device, _): &Gpu, (m, k, n): (usize, usize, usize)) -> Result<(), String> {
    let planned = Products::new(device).plan(&plain(m, k, n)).map_err(|e| format!("not planned: {e}"))?;
    let (a, b) = (codes(&[m, k], 1), codes(&[n, k], 2));
    let turned = eval::movement::transpose(&b, None).unwrap();
    let want = eval::eval_node(&Op::MatMulInteger, &[Some(&a), Some(&turned)]).unwrap().remove(0);
    let inputs = [&a, &b].map(|t| device.upload(t.bytes()).unwrap());
    let output = device.upload(&vec![0xa5; 4 * m * n]).unwrap();
    let scratch = device.upload(&vec![0; planned.scratch() as usize + 256]).unwrap();
    let stream = device.stream().cu_stream();
    let addresses = inputs.each_ref().map(normfuse::cuda::Buffer::address);
    // SAFETY: the stream is the device's, and the buffers are as large as the sizes say and live until the download.
    let launched = unsafe { planned.launch(stream, &addresses, &[output.address()], scratch.address()) };
    launched.map_err(|e| format!("not launched: {e}"))?;
    device.wait().map_err(|e| format!("not run: {e}"))?;
    let found = output.download().unwrap();
    if found == want.bytes() { Ok(()) } else { Err("differs".into()) }
}

/// What a plan takes for a product of the library's is one; what it leaves to the kernel is only told.
#[test]
fn products_of_integers_are_exact() {
    let Some(gpu) = gpu() else { return };
    let mut wrong = Vec::new();
    for m in [1, 5, 16, 17, 64, 100, 300] {
        for k in [4, 8, 16, 24, 64, 1000] {
            for n in [4, 8, 16, 24, 64, 1000] {
                let ours = m > 16 && k % 8 == 0 && n % 8 == 0;
                if let Err(why) = multiply(&gpu, (m, k, n)) {
                    let _ = writeln!(io::stderr(), "[{m}, {k}] times [{k}, {n}]: {why}");
                    if ours || why == "differs" {
                        wrong.push((m, k, n));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}
