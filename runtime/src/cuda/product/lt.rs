//! cuBLASLt: its handles, and one product with the algorithm that it recommends.

use std::{
    ffi::c_void,
    mem::MaybeUninit,
    ptr,
    sync::{Arc, OnceLock},
};

use cudarc::{
    cublaslt::{
        result,
        sys::{
            self, cublasComputeType_t as Compute, cublasLtEpilogue_t as Epilogue,
            cublasLtMatmulDescAttributes_t as DescAttribute, cublasLtMatmulMatrixScale_t as Mode,
            cublasLtMatmulPreferenceAttributes_t as PreferenceAttribute,
            cublasLtMatrixLayoutAttribute_t as LayoutAttribute, cudaDataType_t as Element,
        },
    },
    driver::sys::CUstream,
};
use normfuse_ir::{DType, Error, ErrorKind, Result};

use super::sizes::Side;
use crate::cuda::library::Library;

/// The variable that names the library, or a folder that has it.
pub const VARIABLE: &str = "NORMFUSE_CUBLASLT";

const LIBRARY: Library = Library {
    name: "cuBLASLt",
    file: "libcublasLt.so",
    opens: None,
    purpose: "for matrix products",
    variable: VARIABLE,
    package: "nvidia-cublas",
    folder: "cublas",
};

/// Most bytes of scratch that an algorithm may ask for: what NVIDIA recommends from Hopper on.
const MOST_SCRATCH: usize = 32 << 20;

/// What the library says, as an error of the call.
fn failed(call: &str, error: result::CublasError) -> Error {
    Error::new(ErrorKind::Unsupported, format!("{call} failed: {:?}", error.0))
}

/// The library, loaded and initialised for the GPU that was current.
#[derive(Debug)]
pub struct Handle(sys::cublasLtHandle_t);

// SAFETY: the library's documentation calls its functions thread-safe for one handle.
unsafe impl Send for Handle {}
// SAFETY: as above.
unsafe impl Sync for Handle {}

impl Handle {
    /// Loads the library, and makes a handle for the current GPU.
    ///
    /// # Errors
    /// `Unsupported` with every place that was looked at, or what the library says.
    pub fn new() -> Result<Self> {
        static LOADED: OnceLock<std::result::Result<(), String>> = OnceLock::new();
        // SAFETY: it opens and closes a library of a known name, whose constructors are safe to run.
        let loaded = LOADED.get_or_init(|| LIBRARY.load(|| unsafe { sys::is_culib_present() }));
        loaded.as_ref().map_err(|places| LIBRARY.missing(places))?;
        Ok(Self(result::create_handle().map_err(|e| failed("cublasLtCreate", e))?))
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: it was made once and is not used again. There is nothing to be done about a failure.
        let _ = unsafe { result::destroy_handle(self.0) };
    }
}

/// A description of a product.
#[derive(Debug)]
struct Desc(sys::cublasLtMatmulDesc_t);

impl Desc {
    fn set<T>(&self, attribute: DescAttribute, value: &T) -> Result<()> {
        // SAFETY: the description exists, and the value is as large as is said.
        let set = unsafe {
            result::set_matmul_desc_attribute(self.0, attribute, ptr::from_ref(value).cast(), size_of::<T>())
        };
        set.map_err(|e| failed("cublasLtMatmulDescSetAttribute", e))
    }
}

impl Drop for Desc {
    fn drop(&mut self) {
        // SAFETY: as for the handle.
        let _ = unsafe { result::destroy_matmul_desc(self.0) };
    }
}

/// Where a matrix lies, by columns.
#[derive(Debug)]
struct Layout(sys::cublasLtMatrixLayout_t);

// SAFETY: a layout is data of the library's that nothing changes once it is made.
unsafe impl Send for Layout {}
// SAFETY: as above.
unsafe impl Sync for Layout {}

impl Layout {
    /// `count` matrices of so many rows and columns, each column `lead` elements after the one before, each matrix `step`.
    fn new(element: Element, [rows, columns, lead]: [usize; 3], count: i32, step: usize) -> Result<Self> {
        let made = result::create_matrix_layout(element, rows as u64, columns as u64, lead.max(1) as i64);
        let layout = Self(made.map_err(|e| failed("cublasLtMatrixLayoutCreate", e))?);
        layout.set(LayoutAttribute::CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count)?;
        layout.set(LayoutAttribute::CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &(step as i64))?;
        Ok(layout)
    }

    fn set<T>(&self, attribute: LayoutAttribute, value: &T) -> Result<()> {
        let (from, size) = (ptr::from_ref(value).cast::<c_void>(), size_of::<T>());
        // SAFETY: the layout exists, and the value is as large as is said.
        let set = unsafe { result::set_matrix_layout_attribute(self.0, attribute, from, size) };
        set.map_err(|e| failed("cublasLtMatrixLayoutSetAttribute", e))
    }
}

impl Drop for Layout {
    fn drop(&mut self) {
        // SAFETY: as for the handle.
        let _ = unsafe { result::destroy_matrix_layout(self.0) };
    }
}

struct Preference(sys::cublasLtMatmulPreference_t);

impl Preference {
    /// Scratch of at most [`MOST_SCRATCH`], operands at multiples of `alignment` bytes.
    fn new(alignment: u32) -> Result<Self> {
        let made = result::create_matmul_pref().map_err(|e| failed("cublasLtMatmulPreferenceCreate", e))?;
        let all = Self(made);
        all.set(PreferenceAttribute::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &MOST_SCRATCH)?;
        for attribute in [
            PreferenceAttribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
            PreferenceAttribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
            PreferenceAttribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
            PreferenceAttribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
        ] {
            all.set(attribute, &alignment)?;
        }
        Ok(all)
    }

    fn set<T>(&self, attribute: PreferenceAttribute, value: &T) -> Result<()> {
        // SAFETY: the preference exists, and the value is as large as is said.
        let set = unsafe {
            result::set_matmul_pref_attribute(self.0, attribute, ptr::from_ref(value).cast(), size_of::<T>())
        };
        set.map_err(|e| failed("cublasLtMatmulPreferenceSetAttribute", e))
    }
}

impl Drop for Preference {
    fn drop(&mut self) {
        // SAFETY: as for the handle.
        let _ = unsafe { result::destroy_matmul_pref(self.0) };
    }
}

/// What is added to a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Addend {
    /// Nothing.
    None,
    /// A matrix like the result.
    Matrix,
    /// One row, to every row of the result.
    Row,
}

/// What the scales of a side of a product of codes are, and how they lie: f32 from a multiple of 16 bytes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scales {
    /// One for all.
    One,
    /// One a row.
    Rows,
    /// One for 128 columns of a row: those of all rows lie one behind the other, and the number of rows is a multiple of 4.
    Groups,
    /// One for 128 rows and 128 columns, row by row, as many a row as the next multiple of 4.
    Blocks,
}

impl Scales {
    /// What the library calls it.
    const fn mode(self) -> Mode {
        match self {
            Self::One => Mode::CUBLASLT_MATMUL_MATRIX_SCALE_SCALAR_32F,
            Self::Rows => Mode::CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F,
            Self::Groups => Mode::CUBLASLT_MATMUL_MATRIX_SCALE_VEC128_32F,
            Self::Blocks => Mode::CUBLASLT_MATMUL_MATRIX_SCALE_BLK128x128_32F,
        }
    }
}

/// `d = alpha * a * b + beta * c` of row-major matrices, one product or several at regular distances. Sums are in f32 (of f64 in
/// f64, of i8 in i32), and rounded once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Problem {
    /// Of the operands: f16, bf16, f32 or f64, i8, or 8-bit floats that have scales.
    pub dtypes: [DType; 2],
    /// The scales of both sides, of codes.
    pub scales: Option<[Scales; 2]>,
    /// Of the result and of what is added: the same, or f32.
    pub result: DType,
    /// Rows of the result.
    pub m: usize,
    /// Length of the sums, at least 1.
    pub k: usize,
    /// Columns of the result.
    pub n: usize,
    /// How `a` lies, of `m` rows; transposed, it is stored `[k, m]`.
    pub a: Side,
    /// How `b` lies, of `k` rows; transposed, it is stored `[n, k]`.
    pub b: Side,
    /// Products.
    pub count: usize,
    /// Elements from one `a` to the next.
    pub a_step: usize,
    /// Elements from one `b` to the next.
    pub b_step: usize,
    /// Factor of the product.
    pub alpha: f32,
    /// Factor of `c`; 1 for a row.
    pub beta: f32,
    /// What `c` is.
    pub addend: Addend,
    /// All addresses are multiples of so many bytes.
    pub alignment: u32,
}

/// Addresses of one launch.
#[derive(Debug, Clone, Copy)]
pub struct At {
    /// Of the first left operand.
    pub a: u64,
    /// Of the first right operand.
    pub b: u64,
    /// Of what is added, if anything is.
    pub c: u64,
    /// Of the scales of both sides, if there are any.
    pub scales: [u64; 2],
    /// Of the first result.
    pub d: u64,
    /// Of the scratch.
    pub scratch: u64,
}

/// A product with its algorithm.
#[derive(Debug)]
pub struct Matmul {
    handle: Arc<Handle>,
    problem: Problem,
    // The library counts by columns: what is row-major for us is transposed for it, and so the operands change places.
    left: Layout,
    right: Layout,
    result: Layout,
    algorithm: sys::cublasLtMatmulAlgo_t,
    scratch: usize,
}

impl Problem {
    /// Elements of operands and of the result, and what sums are computed in.
    fn elements(&self) -> Result<([Element; 2], Element, Compute)> {
        let element = |dtype| match dtype {
            DType::F8E4M3FN => Ok(Element::CUDA_R_8F_E4M3),
            DType::F8E5M2 => Ok(Element::CUDA_R_8F_E5M2),
            DType::F16 => Ok(Element::CUDA_R_16F),
            DType::BF16 => Ok(Element::CUDA_R_16BF),
            DType::F32 => Ok(Element::CUDA_R_32F),
            DType::F64 => Ok(Element::CUDA_R_64F),
            DType::I8 => Ok(Element::CUDA_R_8I),
            DType::I32 => Ok(Element::CUDA_R_32I),
            other => {
                let message = format!("expected a product of f16, bf16, f32, f64, i8 or 8-bit floats, found {other}");
                Err(Error::new(ErrorKind::Unsupported, message))
            }
        };
        let compute = match self.dtypes[0] {
            DType::F64 => Compute::CUBLAS_COMPUTE_64F,
            DType::I8 => Compute::CUBLAS_COMPUTE_32I,
            _ => Compute::CUBLAS_COMPUTE_32F,
        };
        let [a, b] = self.dtypes;
        Ok(([element(a)?, element(b)?], element(self.result)?, compute))
    }

    /// What `alpha` and `beta` are for the library, and their bytes.
    fn factors(&self, beta: f32) -> (Element, [[u8; 8]; 2]) {
        let both = [self.alpha, beta];
        let padded = |bytes: [u8; 4]| {
            let [a, b, c, d] = bytes;
            [a, b, c, d, 0, 0, 0, 0]
        };
        match self.dtypes[0] {
            DType::F64 => (Element::CUDA_R_64F, both.map(|f| f64::from(f).to_ne_bytes())),
            DType::I8 => (Element::CUDA_R_32I, both.map(|f| padded((f as i32).to_ne_bytes()))),
            _ => (Element::CUDA_R_32F, both.map(|f| padded(f.to_ne_bytes()))),
        }
    }

    /// With what is added and the scales at these addresses.
    fn describe(&self, row: u64, scales: [u64; 2]) -> Result<Desc> {
        let (_, element, compute) = self.elements()?;
        let (scale, _) = self.factors(0.0);
        let made = result::create_matmul_desc(compute, scale).map_err(|e| failed("cublasLtMatmulDescCreate", e))?;
        let desc = Desc(made);
        // CUBLAS_OP_N is 0, CUBLAS_OP_T is 1.
        desc.set(DescAttribute::CUBLASLT_MATMUL_DESC_TRANSA, &i32::from(self.b.trans))?;
        desc.set(DescAttribute::CUBLASLT_MATMUL_DESC_TRANSB, &i32::from(self.a.trans))?;
        if self.addend == Addend::Row {
            desc.set(DescAttribute::CUBLASLT_MATMUL_DESC_EPILOGUE, &Epilogue::CUBLASLT_EPILOGUE_BIAS)?;
            desc.set(DescAttribute::CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &element)?;
            desc.set(DescAttribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &row)?;
        }
        if let Some([a, b]) = self.scales {
            desc.set(DescAttribute::CUBLASLT_MATMUL_DESC_A_SCALE_MODE, &b.mode())?;
            desc.set(DescAttribute::CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &scales[1])?;
            desc.set(DescAttribute::CUBLASLT_MATMUL_DESC_B_SCALE_MODE, &a.mode())?;
            desc.set(DescAttribute::CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &scales[0])?;
        }
        Ok(desc)
    }
}

impl Matmul {
    /// Asks the library for an algorithm.
    ///
    /// # Errors
    /// `Unsupported` for a dtype that has no product, or with what the library says.
    pub fn new(handle: &Arc<Handle>, problem: Problem) -> Result<Self> {
        let Problem { m, k, n, a, b, .. } = problem;
        let ([of_a, of_b], made, _) = problem.elements()?;
        let count = i32::try_from(problem.count).map_err(|_| {
            Error::new(ErrorKind::Shape, format!("expected at most 2^31 products, found {}", problem.count))
        })?;
        let [rows, columns] = if b.trans { [k, n] } else { [n, k] };
        let left = Layout::new(of_b, [rows, columns, b.lead], count, problem.b_step)?;
        let [rows, columns] = if a.trans { [m, k] } else { [k, m] };
        let right = Layout::new(of_a, [rows, columns, a.lead], count, problem.a_step)?;
        let result = Layout::new(made, [n, m, n], count, m * n)?;
        // Where the row and the scales lie does not matter yet, but they are somewhere.
        let desc = problem.describe(256, [256; 2])?;
        let preference = Preference::new(problem.alignment)?;
        let mut found = MaybeUninit::<sys::cublasLtMatmulHeuristicResult_t>::zeroed();
        let mut number = 0;
        // SAFETY: all handles exist, one result is asked for, and there is room for one.
        let asked = unsafe {
            sys::cublasLtMatmulAlgoGetHeuristic(
                handle.0,
                desc.0,
                left.0,
                right.0,
                result.0,
                result.0,
                preference.0,
                1,
                found.as_mut_ptr(),
                &raw mut number,
            )
        };
        let [a, b] = problem.dtypes;
        let scaled = problem.scales.map_or_else(String::new, |[a, b]| format!(", scales {a:?} and {b:?}"));
        let what = format!("cuBLASLt has no product of {a} and {b} for [{m}, {k}] times [{k}, {n}]{scaled}");
        let none = |status| Error::new(ErrorKind::Unsupported, format!("{what}: {status:?}"));
        asked.result().map_err(|e| none(e.0))?;
        // SAFETY: zeros are a value of the type, as is what the library wrote over them.
        let found = unsafe { found.assume_init() };
        if number == 0 || found.state != sys::cublasStatus_t::CUBLAS_STATUS_SUCCESS {
            return Err(none(sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED));
        }
        let (algorithm, scratch) = (found.algo, found.workspaceSize);
        Ok(Self { handle: handle.clone(), problem, left, right, result, algorithm, scratch })
    }

    /// Bytes of scratch that a launch needs.
    pub fn scratch(&self) -> u64 {
        self.scratch as u64
    }

    /// Puts it on a stream of the GPU that the handle is for, which is current.
    ///
    /// # Errors
    /// `Unsupported` with what the library says.
    ///
    /// # Safety
    /// The addresses are of that GPU's memory, as large as the problem says, at multiples of its alignment, until the launch is
    /// done; meanwhile nothing else writes what it reads or touches what it writes.
    pub unsafe fn launch(&self, stream: CUstream, at: At) -> Result<()> {
        let desc = self.problem.describe(at.c, at.scales)?;
        let matrix = self.problem.addend == Addend::Matrix;
        let beta = if matrix { self.problem.beta } else { 0.0 };
        // At a multiple of 8 bytes, whatever the library reads there.
        let (_, bytes) = self.problem.factors(beta);
        let factors = bytes.map(u64::from_ne_bytes);
        let factor = |i: usize| -> *const c_void { ptr::from_ref(&factors[i]).cast() };
        let address = |at: u64| at as usize as *const c_void;
        // SAFETY: all handles exist and fit one another, as the heuristic has found; the factors live past the call; the caller
        // answers for the addresses.
        let put = unsafe {
            sys::cublasLtMatmul(
                self.handle.0,
                desc.0,
                factor(0),
                address(at.b),
                self.left.0,
                address(at.a),
                self.right.0,
                factor(1),
                address(if matrix { at.c } else { at.d }),
                self.result.0,
                address(at.d).cast_mut(),
                self.result.0,
                &raw const self.algorithm,
                address(at.scratch).cast_mut(),
                self.scratch,
                stream.cast(),
            )
        };
        put.result().map_err(|e| failed("cublasLtMatmul", e))
    }
}
