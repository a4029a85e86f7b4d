//! Tables in a page of the docs: what stands between two marks is made anew, all else is left as somebody wrote it.
//!
//! ```text
//! <!-- measured: agent -->
//!
//! | ... |
//!
//! <!-- /measured -->
//! ```

use anyhow::{Context, Result};

const END: &str = "<!-- /measured -->";

/// The page with this between the marks of that name.
///
/// # Errors
/// When the page has no such marks.
pub(super) fn with(page: &str, name: &str, content: &str) -> Result<String> {
    let begin = format!("<!-- measured: {name} -->");
    let missing = || format!("the page has no place for it: {begin} ... {END}");
    let (before, rest) = page.split_once(&begin).with_context(missing)?;
    let (_, after) = rest.split_once(END).with_context(missing)?;
    Ok(format!("{before}{begin}\n\n{}\n\n{END}{after}", content.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_marks_of_the_name_changes() {
        let page =
            "# A\n<!-- measured: a -->\nold\n<!-- /measured -->\ntext\n<!-- measured: b -->\nold\n<!-- /measured -->\n";
        let with_b = with(page, "b", "new\n").unwrap();
        assert_eq!(with_b, page.replace("b -->\nold\n", "b -->\n\nnew\n\n"));
        assert_eq!(with(&with_b, "b", "new").unwrap(), with_b);
        assert!(with(page, "c", "").unwrap_err().to_string().contains("measured: c"));
    }
}
