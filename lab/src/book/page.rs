//! A page of the documentation as steps that can be done.
//!
//! | in the page | is |
//! |---|---|
//! | a block `console` | what a person types, behind `$ `, and what is printed below it |
//! | a block `yaml` that begins with `# name.yaml` | a file of that name |
//! | a comment `<!-- lab: ... -->` | what somebody does with their hands; readers do not see it |

use anyhow::{Context, Result, bail};
use pulldown_cmark::{CodeBlockKind, Event, Parser, Tag, TagEnd};

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A file is written.
    File {
        /// Its name.
        name: String,
        /// What is in it.
        text: String,
    },
    /// A command is typed.
    Type {
        /// The command.
        command: String,
        /// What the page shows below it.
        shown: Vec<String>,
    },
    /// Somebody does something, in these words.
    Hand(Vec<String>),
}

/// The steps of a page, in its order.
///
/// # Errors
/// A block that nobody can do: the page says too little.
pub fn steps(text: &str) -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    let mut block: Option<(String, String)> = None;
    for event in Parser::new(text) {
        match event {
            Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(kind))) => {
                block = Some((kind.to_string(), String::new()))
            }
            Event::Text(part) if let Some((_, text)) = &mut block => text.push_str(&part),
            Event::End(TagEnd::CodeBlock) => match block.take() {
                Some((kind, text)) if kind == "console" => steps.extend(console(&text)?),
                Some((kind, text)) if kind == "yaml" => steps.extend(file(&text)),
                _ => {}
            },
            Event::Html(part) => steps.extend(hand(&part)),
            _ => {}
        }
    }
    Ok(steps)
}

fn console(text: &str) -> Result<Vec<Step>> {
    let mut steps: Vec<Step> = Vec::new();
    for line in text.lines() {
        match (line.strip_prefix("$ "), steps.last_mut()) {
            (Some(command), _) => steps.push(Step::Type { command: command.to_owned(), shown: Vec::new() }),
            (None, Some(Step::Type { shown, .. })) => shown.push(line.to_owned()),
            (None, _) => bail!("a block begins with {line:?}, not with a command behind `$ `"),
        }
    }
    if steps.is_empty() { bail!("a block of the console has no command") } else { Ok(steps) }
}

fn file(text: &str) -> Option<Step> {
    let name = text.lines().next()?.strip_prefix("# ")?.trim();
    name.ends_with(".yaml").then(|| Step::File { name: name.to_owned(), text: text.to_owned() })
}

fn hand(comment: &str) -> Option<Step> {
    let words = comment.trim().strip_prefix("<!-- lab:")?.strip_suffix("-->")?;
    Some(Step::Hand(words.split_whitespace().map(str::to_owned).collect()))
}

/// The steps of a file of the documentation.
///
/// # Errors
/// It cannot be read, or a block of it not be done.
pub fn read(path: &std::path::Path) -> Result<Vec<Step>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    steps(&text).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_files_commands_and_what_hands_do() {
        let page = "# Title\n\n<!-- lab: plug node-1 stick -->\n\nText with `code`.\n\n```yaml\n# vm.yaml\nkind: VM\n```\n\n\
                    ```yaml\nkind: Shown\n```\n\n```console\n$ kubectl apply -f vm.yaml\nvm made\n\n$ kubectl get vm\n```\n\n\
                    ```\n$ nothing\n```\n";
        let typed = |command: &str, shown: &[&str]| Step::Type {
            command: command.to_owned(),
            shown: shown.iter().map(|line| (*line).to_owned()).collect(),
        };
        let expected = [
            Step::Hand(vec!["plug".to_owned(), "node-1".to_owned(), "stick".to_owned()]),
            Step::File { name: "vm.yaml".to_owned(), text: "# vm.yaml\nkind: VM\n".to_owned() },
            typed("kubectl apply -f vm.yaml", &["vm made", ""]),
            typed("kubectl get vm", &[]),
        ];
        assert_eq!(steps(page).unwrap(), expected);
    }

    #[test]
    fn a_block_without_a_command_is_a_mistake() {
        assert!(steps("```console\nkubectl get vm\n```\n").is_err());
        assert!(steps("```console\n```\n").is_err());
    }
}
