//! `models/*.json`: an `ExportedProgram` in torch's schema, major version 8. Fields that are not named here are skipped,
//! so later minor versions read; keys of a union that are not known are kept by name, for the error that they become.

use std::{collections::BTreeMap, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, Visitor},
};

use super::place::Place;

/// The major version that this reader reads.
pub const MAJOR: i64 = 8;

/// The version of the schema that a file follows.
#[derive(Debug, Deserialize)]
pub struct Version {
    pub major: i64,
    pub minor: i64,
}

/// What of a program can be read whatever version it has.
#[derive(Debug, Deserialize)]
pub struct Versioned {
    pub schema_version: Version,
}

/// A program.
#[derive(Debug, Deserialize)]
pub struct Program {
    pub graph_module: GraphModule,
    #[serde(default)]
    pub range_constraints: BTreeMap<String, Range>,
    pub schema_version: Version,
    #[serde(default)]
    pub torch_version: String,
    /// `TRAINING` as exported, `ATEN` after run_decompositions().
    #[serde(default)]
    pub verifiers: Vec<String>,
    #[serde(default)]
    pub guards_code: Vec<String>,
}

/// Which sizes a symbol may be.
#[derive(Debug, Deserialize)]
pub struct Range {
    #[serde(default)]
    pub min_val: Option<i64>,
    #[serde(default)]
    pub max_val: Option<i64>,
}

#[derive(Debug, Deserialize)]
pub struct GraphModule {
    pub graph: Graph,
    pub signature: Signature,
    #[serde(default)]
    pub module_call_graph: Vec<ModuleCall>,
}

/// How a module is called; the program is the one without a name.
#[derive(Debug, Deserialize)]
pub struct ModuleCall {
    #[serde(default)]
    pub fqn: String,
    #[serde(default)]
    pub signature: Option<CallSignature>,
}

/// What a module is given and returns.
#[derive(Debug, Deserialize)]
pub struct CallSignature {
    /// The tree of results, as text.
    #[serde(default)]
    pub out_spec: String,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct Graph {
    #[serde(default)]
    pub inputs: Vec<Argument>,
    #[serde(default)]
    pub outputs: Vec<Argument>,
    pub nodes: Vec<Node>,
    pub tensor_values: BTreeMap<String, TensorMeta>,
    #[serde(default)]
    pub sym_int_values: BTreeMap<String, SymInt>,
}

/// One call.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Node {
    pub target: String,
    #[serde(default)]
    pub inputs: Vec<NamedArgument>,
    #[serde(default)]
    pub outputs: Vec<Argument>,
    #[serde(default)]
    pub metadata: Place,
    #[serde(default)]
    pub name: Option<String>,
}

impl Node {
    /// What messages call it: its name, or that of its first result.
    pub fn label(&self) -> &str {
        match (&self.name, self.outputs.first()) {
            (Some(name), _) if !name.is_empty() => name,
            (_, Some(Argument::Tensor(name))) => name,
            (_, Some(Argument::Tensors(names))) => names.first().map_or(&self.target, |n| n),
            _ => &self.target,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct NamedArgument {
    pub name: String,
    pub arg: Argument,
}

/// An operand, an attribute or a result. Kinds that no op of ours takes are only known by their key.
#[derive(Debug, Clone, PartialEq)]
pub enum Argument {
    None,
    Tensor(String),
    Tensors(Vec<String>),
    OptionalTensors(Vec<Option<String>>),
    Int(i64),
    Ints(Vec<i64>),
    Float(f64),
    Floats(Vec<f64>),
    Text(String),
    SymInt(SymArgument),
    SymInts(Vec<SymArgument>),
    ScalarType(i64),
    MemoryFormat(i64),
    Layout(i64),
    Device(String),
    Bool(bool),
    /// A part of the program that a call runs.
    Graph(Box<Graph>),
    /// A truth value or a float that is computed: its key and its name.
    Sym(String, Option<String>),
    /// One that the schema has and no op of ours reads.
    Other(String),
    /// One that this schema does not have.
    Unknown(String),
}

/// An integer, or the name of one that is computed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SymArgument {
    Name(String),
    Int(i64),
    Unknown(String),
}

/// A size as the file has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SymInt {
    Int(i64),
    Expr(String),
    Unknown(String),
}

/// A tensor's type.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct TensorMeta {
    pub dtype: i64,
    pub sizes: Vec<SymInt>,
    #[serde(default)]
    pub strides: Vec<SymInt>,
    #[serde(default)]
    pub storage_offset: Option<SymInt>,
    pub device: Device,
    /// 7 is strided.
    #[serde(default)]
    pub layout: Option<i64>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Device {
    pub r#type: String,
}

#[derive(Debug, Deserialize)]
pub struct Signature {
    pub input_specs: Vec<InputSpec>,
    pub output_specs: Vec<OutputSpec>,
}

/// What an input of the graph is.
#[derive(Debug)]
pub enum InputSpec {
    User(Argument),
    /// A parameter, buffer or constant: the graph's name of it and its own.
    Tensor {
        arg: String,
        name: String,
        role: Role,
    },
    /// A custom object, a token or a constant, or a key that this schema does not have.
    Other(String),
}

/// What a tensor of the model is to those who save and load it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A parameter or persistent buffer: checkpoints have it.
    State,
    /// A buffer that is computed when the model is made: checkpoints do not have it.
    Transient,
    /// A number of the program.
    Constant,
}

/// What a result of the graph is.
#[derive(Debug)]
pub enum OutputSpec {
    User(Argument),
    /// The new contents of a buffer, parameter or input.
    Mutation {
        kind: String,
        arg: String,
        name: String,
    },
    Other(String),
}

/// The tensors of a model outside of its graph.
#[derive(Debug, Deserialize)]
pub struct PayloadConfig {
    pub config: BTreeMap<String, Payload>,
}

/// Where one of them is.
#[derive(Debug, Deserialize)]
pub struct Payload {
    pub path_name: String,
    #[serde(default)]
    pub use_pickle: bool,
    #[serde(default)]
    pub tensor_meta: Option<TensorMeta>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

/// Of a number that is written in the program only its key is there.
#[derive(Deserialize)]
struct SymName {
    #[serde(default)]
    as_name: Option<String>,
}

#[derive(Deserialize)]
struct UserSpec {
    arg: Argument,
}

#[derive(Deserialize)]
struct TensorSpec {
    arg: Named,
    #[serde(
        alias = "parameter_name",
        alias = "buffer_name",
        alias = "tensor_constant_name",
        alias = "user_input_name"
    )]
    own: String,
    /// Of buffers.
    #[serde(default)]
    persistent: Option<bool>,
}

#[derive(Deserialize)]
struct Subgraph {
    graph: Graph,
}

#[derive(Deserialize)]
struct Expression {
    expr_str: String,
}

/// A float, which JSON cannot always say as one.
#[derive(Deserialize)]
#[serde(untagged)]
enum Number {
    Float(f64),
    Text(String),
}

impl Number {
    fn value<E: serde::de::Error>(self) -> Result<f64, E> {
        match self {
            Self::Float(v) => Ok(v),
            Self::Text(t) => match t.as_str() {
                "Infinity" => Ok(f64::INFINITY),
                "-Infinity" => Ok(f64::NEG_INFINITY),
                "NaN" => Ok(f64::NAN),
                other => Err(E::custom(format!("expected a float, found `{other}`"))),
            },
        }
    }
}

/// A type that the file has as an object with one key, which says what the value is.
trait Union: Sized {
    const WHAT: &'static str;

    fn of<'de, A: MapAccess<'de>>(key: &str, map: &mut A) -> Result<Self, A::Error>;
}

fn skip<'de, A: MapAccess<'de>>(map: &mut A) -> Result<(), A::Error> {
    map.next_value::<IgnoredAny>().map(drop)
}

struct UnionVisitor<T>(std::marker::PhantomData<T>);

impl<'de, T: Union> Visitor<'de> for UnionVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object with one key that says what {} is", T::WHAT)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<T, A::Error> {
        use serde::de::Error;
        let key: String = map.next_key()?.ok_or_else(|| A::Error::custom(format!("{} has no kind", T::WHAT)))?;
        let value = T::of(&key, &mut map)?;
        match map.next_key::<String>()? {
            None => Ok(value),
            Some(more) => Err(A::Error::custom(format!("{} is both `{key}` and `{more}`", T::WHAT))),
        }
    }
}

macro_rules! union {
    ($($t:ty),*) => {
        $(impl<'de> Deserialize<'de> for $t {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                d.deserialize_map(UnionVisitor(std::marker::PhantomData))
            }
        })*
    };
}

union!(Argument, SymArgument, SymInt, InputSpec, OutputSpec);

/// Keys of `Argument` that the schema has and no op of ours reads.
const OTHER: [&str; 12] = [
    "as_strings",
    "as_bools",
    "as_sym_bools",
    "as_sym_floats",
    "as_custom_obj",
    "as_operator",
    "as_complex",
    "as_nested_tensors",
    "as_int_lists",
    "as_string_to_argument",
    "as_float_lists",
    "as_device_mesh",
];

impl Union for Argument {
    const WHAT: &'static str = "an argument";

    fn of<'de, A: MapAccess<'de>>(key: &str, map: &mut A) -> Result<Self, A::Error> {
        let names = |v: Vec<Named>| v.into_iter().map(|n| n.name).collect();
        Ok(match key {
            "as_none" => {
                skip(map)?;
                Self::None
            }
            "as_tensor" => Self::Tensor(map.next_value::<Named>()?.name),
            "as_tensors" => Self::Tensors(names(map.next_value()?)),
            "as_optional_tensors" => {
                Self::OptionalTensors(map.next_value::<Vec<Self>>()?.into_iter().map(Self::optional).collect())
            }
            "as_optional_tensor" => match map.next_value::<Self>()?.optional() {
                Some(name) => Self::Tensor(name),
                None => Self::None,
            },
            "as_int" => Self::Int(map.next_value()?),
            "as_ints" => Self::Ints(map.next_value()?),
            "as_float" => Self::Float(map.next_value::<Number>()?.value()?),
            "as_floats" => {
                let all: Vec<Number> = map.next_value()?;
                Self::Floats(all.into_iter().map(Number::value).collect::<Result<_, _>>()?)
            }
            "as_string" => Self::Text(map.next_value()?),
            "as_sym_int" => Self::SymInt(map.next_value()?),
            "as_sym_ints" => Self::SymInts(map.next_value()?),
            "as_sym_bool" | "as_sym_float" => Self::Sym(key.to_owned(), map.next_value::<SymName>()?.as_name),
            "as_scalar_type" => Self::ScalarType(map.next_value()?),
            "as_memory_format" => Self::MemoryFormat(map.next_value()?),
            "as_layout" => Self::Layout(map.next_value()?),
            "as_device" => Self::Device(map.next_value::<Device>()?.r#type),
            "as_bool" => Self::Bool(map.next_value()?),
            "as_graph" => Self::Graph(Box::new(map.next_value::<Subgraph>()?.graph)),
            _ => {
                skip(map)?;
                if OTHER.contains(&key) { Self::Other(key.to_owned()) } else { Self::Unknown(key.to_owned()) }
            }
        })
    }
}

impl Argument {
    fn optional(self) -> Option<String> {
        match self {
            Self::Tensor(name) => Some(name),
            _ => None,
        }
    }

    /// The names of computed numbers in it.
    pub fn computed(&self) -> Vec<&str> {
        match self {
            Self::SymInt(SymArgument::Name(n)) | Self::Sym(_, Some(n)) => vec![n],
            Self::SymInts(all) => all.iter().filter_map(SymArgument::name).collect(),
            _ => Vec::new(),
        }
    }

    /// The key that this schema does not have, if the argument is or holds such a one.
    pub fn unknown(&self) -> Option<&str> {
        let of = |s: &'_ SymArgument| matches!(s, SymArgument::Unknown(_));
        match self {
            Self::Unknown(key) | Self::SymInt(SymArgument::Unknown(key)) => Some(key),
            Self::SymInts(all) => all.iter().find(|s| of(s)).map(|s| match s {
                SymArgument::Unknown(key) => key.as_str(),
                _ => "",
            }),
            _ => None,
        }
    }
}

impl SymArgument {
    /// The name of one that is computed.
    fn name(&self) -> Option<&str> {
        match self {
            Self::Name(n) => Some(n),
            _ => None,
        }
    }
}

impl Union for SymArgument {
    const WHAT: &'static str = "an integer argument";

    fn of<'de, A: MapAccess<'de>>(key: &str, map: &mut A) -> Result<Self, A::Error> {
        Ok(match key {
            "as_name" => Self::Name(map.next_value()?),
            "as_int" => Self::Int(map.next_value()?),
            _ => {
                skip(map)?;
                Self::Unknown(key.to_owned())
            }
        })
    }
}

impl Union for SymInt {
    const WHAT: &'static str = "a size";

    fn of<'de, A: MapAccess<'de>>(key: &str, map: &mut A) -> Result<Self, A::Error> {
        Ok(match key {
            "as_expr" => Self::Expr(map.next_value::<Expression>()?.expr_str),
            "as_int" => Self::Int(map.next_value()?),
            _ => {
                skip(map)?;
                Self::Unknown(key.to_owned())
            }
        })
    }
}

impl Union for InputSpec {
    const WHAT: &'static str = "an input";

    fn of<'de, A: MapAccess<'de>>(key: &str, map: &mut A) -> Result<Self, A::Error> {
        Ok(match key {
            "user_input" => Self::User(map.next_value::<UserSpec>()?.arg),
            "parameter" | "buffer" | "tensor_constant" => {
                let spec: TensorSpec = map.next_value()?;
                let role = match key {
                    "tensor_constant" => Role::Constant,
                    _ if spec.persistent == Some(false) => Role::Transient,
                    _ => Role::State,
                };
                Self::Tensor { arg: spec.arg.name, name: spec.own, role }
            }
            _ => {
                skip(map)?;
                Self::Other(key.to_owned())
            }
        })
    }
}

impl Union for OutputSpec {
    const WHAT: &'static str = "an output";

    fn of<'de, A: MapAccess<'de>>(key: &str, map: &mut A) -> Result<Self, A::Error> {
        Ok(match key {
            "user_output" => Self::User(map.next_value::<UserSpec>()?.arg),
            "buffer_mutation" | "parameter_mutation" | "user_input_mutation" => {
                let spec: TensorSpec = map.next_value()?;
                Self::Mutation { kind: key.to_owned(), arg: spec.arg.name, name: spec.own }
            }
            _ => {
                skip(map)?;
                Self::Other(key.to_owned())
            }
        })
    }
}
