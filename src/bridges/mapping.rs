//! A source's own mapping: a VRL program that builds an envelope from a request.

use bytes::Bytes;

use super::{content::Content, headers::Headers, refusal::Refusal};
use crate::{envelope::json::utf8, topology::Program};

/// A compiled mapping. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Mapping(Program);

impl Mapping {
    /// Compiles the program; the error lists all faults, each with its line and a caret.
    pub(super) fn compile(text: &str) -> Result<Self, Vec<String>> {
        Program::compile("mapping", text).map(Self)
    }

    /// Builds the envelope of a request, as JSON text. 400 with the code of the failure, such as `vrl_error`.
    pub(super) fn run(
        &self,
        headers: Headers<'_>,
        content: &Content<'_>,
    ) -> Result<String, Refusal> {
        let input = format!(
            r#"{{"headers":{},"body":{}}}"#,
            headers.json(),
            content.text()
        );
        let made = self.0.run(&Bytes::from(input));
        let made = made.map_err(|rejected| Refusal::invalid(rejected.code, rejected.message))?;
        Ok(utf8(&made)?.to_owned())
    }
}
