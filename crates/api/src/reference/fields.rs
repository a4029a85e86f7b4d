//! A schema as rows of a table.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};

/// Fields with these names have a section of their own.
const CONDITIONS: &str = "conditions";

/// The schema of the only version of a definition.
pub(super) fn schema(definition: &CustomResourceDefinition) -> Option<&JSONSchemaProps> {
    definition.spec.versions.first()?.schema.as_ref()?.open_api_v3_schema.as_ref()
}

/// A row for each field of spec and status, however deep.
pub(super) fn rows(schema: &JSONSchemaProps) -> Vec<String> {
    let mut rows = Vec::new();
    for part in ["spec", "status"] {
        if let Some(schema) = schema.properties.as_ref().and_then(|all| all.get(part)) {
            rows.extend(rules(schema).iter().map(|rule| format!("| `{part}` | object | | {} |\n", cell(rule))));
            below(schema, part, &mut rows);
        }
    }
    rows
}

/// A row for each field of a condition.
pub(super) fn of_conditions(schema: Option<&JSONSchemaProps>) -> Vec<String> {
    let field = |schema: Option<&'_ JSONSchemaProps>, name: &str| schema?.properties.as_ref()?.get(name).cloned();
    let conditions = field(field(schema, "status").as_ref(), CONDITIONS);
    let mut rows = Vec::new();
    if let Some(entry) = conditions.as_ref().and_then(entry) {
        below(entry, "", &mut rows);
    }
    rows
}

/// What is refused, as sentences.
pub(super) fn rules(schema: &JSONSchemaProps) -> Vec<String> {
    let rules = schema.x_kubernetes_validations.iter().flatten();
    let texts = rules.map(|rule| match (&rule.message_expression, &rule.message) {
        (Some(expression), _) => {
            // `'"' + self + '" cannot be ...'`
            let text = expression.rsplit_once("+ '\" ").map_or(expression.as_str(), |(_, text)| text);
            format!("refused with `\"...\" {}`", text.trim_end_matches('\''))
        }
        (None, Some(message)) => message.clone(),
        (None, None) => format!("`{}`", rule.rule),
    });
    texts.collect()
}

fn below(schema: &JSONSchemaProps, path: &str, rows: &mut Vec<String>) {
    let required = schema.required.clone().unwrap_or_default();
    for (name, field) in schema.properties.iter().flatten() {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        let meaning = cell(field.description.as_deref().unwrap_or_default());
        let needed = if path.starts_with("spec") { "required" } else { "always there" };
        let limits = cell(&limits(field, required.contains(name).then_some(needed)));
        rows.push(format!("| `{path}` | {} | {meaning} | {limits} |\n", kind(field)));
        if name == CONDITIONS {
            continue;
        }
        below(field, &path, rows);
        if let Some(entry) = entry(field) {
            below(entry, &format!("{path}[]"), rows);
        }
    }
}

/// The schema of a list's entries.
fn entry(schema: &JSONSchemaProps) -> Option<&JSONSchemaProps> {
    match schema.items.as_ref()? {
        JSONSchemaPropsOrArray::Schema(schema) => Some(schema),
        JSONSchemaPropsOrArray::Schemas(_) => None,
    }
}

fn kind(schema: &JSONSchemaProps) -> String {
    match (schema.type_.as_deref(), schema.format.as_deref()) {
        (Some("string"), Some("date-time")) => "time (RFC 3339)".to_owned(),
        (Some("array"), _) => format!("list of {}s", entry(schema).map_or_else(|| "value".to_owned(), kind)),
        (Some("object"), _) => match &schema.additional_properties {
            Some(JSONSchemaPropsOrBool::Schema(value)) => format!("map of {}s", kind(value)),
            _ => "object".to_owned(),
        },
        (Some(kind), _) => kind.to_owned(),
        (None, _) => "any".to_owned(),
    }
}

fn limits(schema: &JSONSchemaProps, required: Option<&str>) -> String {
    let mut limits: Vec<String> = required.map(str::to_owned).into_iter().collect();
    if let Some(default) = schema.default.as_ref().filter(|_| schema.properties.is_none()) {
        limits.push(format!("default `{}`", default.0.to_string().trim_matches('"')));
    }
    if let Some(values) = &schema.enum_ {
        let values: Vec<_> = values.iter().map(|v| format!("`{}`", v.0.to_string().trim_matches('"'))).collect();
        limits.push(format!("one of {}", values.join(", ")));
    }
    match (schema.minimum, schema.maximum) {
        (Some(min), Some(max)) => limits.push(format!("{min} to {max}")),
        (Some(min), None) => limits.push(format!("at least {min}")),
        (None, Some(max)) => limits.push(format!("at most {max}")),
        (None, None) => {}
    }
    if let Some(pattern) = &schema.pattern {
        limits.push(format!("like `{pattern}`"));
    }
    if let Some(most) = schema.max_properties {
        limits.push(format!("at most {most} entries"));
    }
    let rules = rules(schema);
    // Where there are rules, the bounds of the schema are wider than theirs.
    if rules.is_empty()
        && let Some(most) = schema.max_length
    {
        limits.push(format!("at most {most} characters"));
    }
    limits.extend(rules);
    limits.join("; ")
}

/// Text as it can be in a cell of a table.
fn cell(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn schema(value: serde_json::Value) -> JSONSchemaProps {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_field_says_what_it_takes() {
        let schema = schema(json!({"properties": {"spec": {"type": "object", "required": ["size"], "properties": {
            "size": {"type": "string", "description": "How\nmuch.", "pattern": "^(a|b)$", "default": "a"},
            "many": {"type": "array", "items": {"type": "object", "required": ["name"], "properties": {
                "name": {"type": "string", "maxLength": 7}}}},
            "few": {"type": "integer", "minimum": 1, "maximum": 64, "enum": [1, 2]},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}, "maxProperties": 3},
            "since": {"type": "string", "format": "date-time"}}}}}));
        let expected = [
            "| `spec.few` | integer |  | one of `1`, `2`; 1 to 64 |\n",
            "| `spec.labels` | map of strings |  | at most 3 entries |\n",
            "| `spec.many` | list of objects |  |  |\n",
            "| `spec.many[].name` | string |  | required; at most 7 characters |\n",
            "| `spec.since` | time (RFC 3339) |  |  |\n",
            "| `spec.size` | string | How much. | required; default `a`; like `^(a\\|b)$` |\n",
        ];
        assert_eq!(rows(&schema), expected);
    }

    #[test]
    fn rules_are_told_in_their_own_words() {
        let schema = schema(json!({"x-kubernetes-validations": [
            {"rule": "a", "messageExpression": "'\"' + self + '\" cannot be'"},
            {"rule": "b", "message": "at most two"},
            {"rule": "c"}]}));
        assert_eq!(rules(&schema), ["refused with `\"...\" cannot be`", "at most two", "`c`"]);
    }
}
