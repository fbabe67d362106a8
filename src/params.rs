//! Parameters by name: the bridge from the command line, JavaScript and case files to typed variant structs.

use crate::error::{Error, ErrorKind, Result};
use std::fmt;

/// A parameter's value without its Rust type.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Value {
    /// Absent: the parameter keeps its default.
    None,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A real number.
    Float(f64),
    /// A word.
    Text(String),
    /// Several values, one an axis.
    List(Vec<Value>),
}

impl Value {
    /// Reads a value as the command line writes it: `true`, `3`, `0.5`, `causal_self`, `8,8` or `[8, 8]`.
    pub fn parse(text: &str) -> Value {
        let text = text.trim();
        if let Some(inner) = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')) {
            return Value::List(inner.split(',').filter(|t| !t.trim().is_empty()).map(Value::parse).collect());
        }
        if text.contains(',') {
            return Value::List(text.split(',').map(Value::parse).collect());
        }
        match text {
            "true" => Value::Bool(true),
            "false" => Value::Bool(false),
            "" | "none" | "null" => Value::None,
            _ => text
                .parse::<i64>()
                .map(Value::Int)
                .or_else(|_| text.parse::<f64>().map(Value::Float))
                .unwrap_or_else(|_| Value::Text(text.to_owned())),
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::None => f.write_str("none"),
            Value::Bool(b) => write!(f, "{b}"),
            Value::Int(i) => write!(f, "{i}"),
            Value::Float(x) => write!(f, "{x:?}"),
            Value::Text(t) => f.write_str(t),
            Value::List(values) => {
                f.write_str("[")?;
                for (i, value) in values.iter().enumerate() {
                    write!(f, "{}{value}", if i == 0 { "" } else { ", " })?;
                }
                f.write_str("]")
            }
        }
    }
}

/// One parameter of a variant, as `list --json` prints it.
#[derive(Clone, Debug, PartialEq)]
pub struct ParamSpec {
    /// The name in the catalogue.
    pub name: &'static str,
    /// `bool`, `int`, `float`, `string` or `list`.
    pub kind: &'static str,
    /// The default; [`Value::None`] where the parameter is absent by default.
    pub default: Value,
    /// The field's documentation.
    pub help: &'static str,
}

/// A Rust type that a parameter may have.
pub trait ParamType: Sized {
    /// The type's word in the catalogue.
    const KIND: &'static str;
    /// The value without its type.
    fn to_value(&self) -> Value;
    /// The typed value, or `None` if it is not one of this type's.
    fn from_value(value: &Value) -> Option<Self>;
    /// What a message says was expected.
    fn expected() -> String {
        format!("a {}", Self::KIND)
    }
}

impl ParamType for bool {
    const KIND: &'static str = "bool";
    fn to_value(&self) -> Value {
        Value::Bool(*self)
    }
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Bool(b) => Some(*b),
            Value::Int(0) => Some(false),
            Value::Int(1) => Some(true),
            _ => None,
        }
    }
}

impl ParamType for usize {
    const KIND: &'static str = "int";
    fn to_value(&self) -> Value {
        Value::Int(*self as i64)
    }
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            // Sizes and counts stay below 2^31 so that shaders can hold them in an i32.
            Value::Int(i) if (0..1 << 31).contains(i) => Some(*i as usize),
            _ => None,
        }
    }
    fn expected() -> String {
        "a whole number from 0 to 2^31 - 1".into()
    }
}

impl ParamType for f32 {
    const KIND: &'static str = "float";
    fn to_value(&self) -> Value {
        // Through the shortest decimal, so that 1e-6 prints as 1e-6 and not as 9.999999974752427e-7.
        Value::Float(format!("{self:e}").parse().unwrap_or(f64::from(*self)))
    }
    fn from_value(value: &Value) -> Option<Self> {
        let x = match value {
            Value::Int(i) => *i as f32,
            Value::Float(x) => *x as f32,
            _ => return None,
        };
        x.is_finite().then_some(x)
    }
    fn expected() -> String {
        "a finite number".into()
    }
}

impl<T: ParamType> ParamType for Option<T> {
    const KIND: &'static str = T::KIND;
    fn to_value(&self) -> Value {
        self.as_ref().map_or(Value::None, T::to_value)
    }
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::None => Some(None),
            other => T::from_value(other).map(Some),
        }
    }
    fn expected() -> String {
        T::expected()
    }
}

impl<T: ParamType> ParamType for Vec<T> {
    const KIND: &'static str = "list";
    fn to_value(&self) -> Value {
        Value::List(self.iter().map(T::to_value).collect())
    }
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::List(values) => values.iter().map(T::from_value).collect(),
            one => T::from_value(one).map(|v| vec![v]),
        }
    }
    fn expected() -> String {
        format!("a list, each entry {}", T::expected())
    }
}

/// A struct whose fields are parameters; written by [`params!`](crate::params!).
pub trait ParamSet: Default {
    /// The parameters in the order of the fields.
    fn specs() -> Vec<ParamSpec>;
    /// Sets the parameter `name`. `variant` is only for the message.
    ///
    /// # Errors
    /// [`ErrorKind::UnknownName`] and [`ErrorKind::Parameter`].
    fn set(&mut self, variant: &str, name: &str, value: &Value) -> Result<()>;
    /// Every parameter and its value.
    fn values(&self) -> Vec<(&'static str, Value)>;
}

/// Sets one field; called by [`params!`](crate::params!).
#[doc(hidden)]
pub fn assign<T: ParamType>(field: &mut T, variant: &str, name: &str, value: &Value) -> Result<()> {
    *field = T::from_value(value)
        .ok_or_else(|| Error::expected(ErrorKind::Parameter, variant, name, T::expected(), value))?;
    Ok(())
}

/// The error for a name that is not a parameter.
#[doc(hidden)]
pub fn unknown(variant: &str, name: &str, known: &[ParamSpec]) -> Error {
    let names: Vec<_> = known.iter().map(|s| s.name).collect();
    let known = if names.is_empty() { "it has none".into() } else { format!("it has {}", names.join(", ")) };
    Error::new(ErrorKind::UnknownName, format!("{variant}: no parameter is called `{name}`; {known}"))
}

/// Declares a struct of parameters with defaults and its [`ParamSet`].
///
/// ```
/// wgpu_attention::params! {
///     /// What it does.
///     pub struct Mine {
///         /// Query `i` sees keys up to `i + Lk - Lq`.
///         causal: bool = false,
///         /// Default D^-1/2.
///         scale: Option<f32> = None,
///     }
/// }
/// assert!(!Mine::default().causal);
/// ```
#[macro_export]
macro_rules! params {
    ($(#[$meta:meta])* pub struct $name:ident { $( $(#[doc = $doc:literal])* $field:ident : $ty:ty = $default:expr ),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name { $( $(#[doc = $doc])* pub $field: $ty, )* }
        impl Default for $name {
            fn default() -> Self { Self { $( $field: $default, )* } }
        }
        impl $crate::ParamSet for $name {
            fn specs() -> Vec<$crate::ParamSpec> {
                vec![$( $crate::ParamSpec {
                    name: stringify!($field),
                    kind: <$ty as $crate::ParamType>::KIND,
                    default: <$ty as $crate::ParamType>::to_value(&($default)),
                    help: concat!($($doc),*),
                } ),*]
            }
            #[allow(unused_variables)]
            fn set(&mut self, variant: &str, name: &str, value: &$crate::Value) -> $crate::Result<()> {
                match name {
                    $( stringify!($field) => $crate::params::assign(&mut self.$field, variant, name, value), )*
                    _ => Err($crate::params::unknown(variant, name, &<Self as $crate::ParamSet>::specs())),
                }
            }
            fn values(&self) -> Vec<(&'static str, $crate::Value)> {
                vec![$( (stringify!($field), $crate::ParamType::to_value(&self.$field)) ),*]
            }
        }
    };
}

/// Declares a parameter that is one of a few words.
#[macro_export]
macro_rules! words {
    ($(#[$meta:meta])* pub enum $name:ident { $( $(#[$vmeta:meta])* $variant:ident = $word:literal ),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $( $(#[$vmeta])* $variant, )* }
        impl $crate::ParamType for $name {
            const KIND: &'static str = "string";
            fn to_value(&self) -> $crate::Value {
                $crate::Value::Text(match self { $( Self::$variant => $word, )* }.to_owned())
            }
            fn from_value(value: &$crate::Value) -> Option<Self> {
                let text = match value {
                    $crate::Value::Text(t) => t.as_str(),
                    // `none` is how an absent value is written; here it may be one of the words.
                    $crate::Value::None => "none",
                    _ => return None,
                };
                match text { $( $word => Some(Self::$variant), )* _ => None }
            }
            fn expected() -> String { concat!("one of" $(, " ", $word)*).to_owned() }
        }
    };
}
