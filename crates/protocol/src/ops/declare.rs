//! The macro behind the table: one line per operation gives its kind, its declaration, and its types' schemas.

macro_rules! operations {
    (
        forwarded { $($(#[doc = $fdoc:literal])+ $fname:ident($finput:ty => $foutput:ty) = $fentry:expr;)* }
        daemon { $($(#[doc = $ddoc:literal])+ $dname:ident($dinput:ty => $doutput:ty) = $dentry:expr;)* }
    ) => {
        /// The kind of an operation.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum OperationKind {
            $($(#[doc = $fdoc])+ $fname,)*
            $($(#[doc = $ddoc])+ $dname,)*
        }

        /// The operations that the daemon does itself.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum DaemonOperation {
            $($(#[doc = $ddoc])+ $dname,)*
        }

        impl OperationKind {
            /// Every operation, forwarded ones first.
            pub const ALL: &'static [Self] = &[$(Self::$fname,)* $(Self::$dname,)*];

            /// What is declared about it.
            pub const fn spec(self) -> $crate::ops::Operation {
                match self {
                    $(Self::$fname => {
                        let mut entry: $crate::ops::Operation = $fentry;
                        entry.summary = $crate::status::sentence(concat!($($fdoc),+));
                        entry
                    })*
                    $(Self::$dname => {
                        let mut entry: $crate::ops::Operation = $dentry;
                        entry.summary = $crate::status::sentence(concat!($($ddoc),+));
                        entry
                    })*
                }
            }

            pub(super) fn raw_input_schema(self) -> schemars::Schema {
                match self {
                    $(Self::$fname => $crate::ops::schema::of::<$finput>(),)*
                    $(Self::$dname => $crate::ops::schema::of::<$dinput>(),)*
                }
            }

            pub(super) fn raw_output_schema(self) -> schemars::Schema {
                match self {
                    $(Self::$fname => $crate::ops::schema::of::<$foutput>(),)*
                    $(Self::$dname => $crate::ops::schema::of::<$doutput>(),)*
                }
            }
        }

        impl $crate::wire::ClientFrame {
            /// The frame of a forwarded operation, from arguments that passed [`OperationKind::arguments`].
            ///
            /// # Errors
            /// An argument has the wrong shape for the frame; the text names it.
            pub fn of_operation(
                kind: OperationKind,
                arguments: serde_json::Map<String, serde_json::Value>,
            ) -> Result<Option<Self>, serde_json::Error> {
                let arguments = serde_json::Value::Object(arguments);
                Ok(match kind {
                    $(OperationKind::$fname => {
                        let payload: $finput = serde_json::from_value(arguments)?;
                        Some(Self::from(payload))
                    })*
                    _ => None,
                })
            }
        }
    };
}
pub(super) use operations;
