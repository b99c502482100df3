//! The OpenAPI document, made from the table of routes. Checked in at `openapi/v1.json`; a test keeps it current.

use super::{Parameter, ROUTES};
use proteus_protocol::api::v1::{ErrorBody, PREFIX};
use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

/// The document.
pub fn document() -> Value {
    let mut generator = SchemaGenerator::new(SchemaSettings::openapi3());
    let error = generator.subschema_for::<ErrorBody>();
    let mut paths: Map<String, Value> = Map::new();
    for route in ROUTES {
        let body = |schema: &Value| json!({"application/json": {"schema": schema}});
        let mut operation = json!({
            "summary": route.summary,
            "description": format!("Takes the role {:?} or higher.", route.role).to_lowercase(),
            "responses": { "default": {"description": "A refusal.", "content": body(&json!(error))} },
        });
        let answer = route.response.map(|schema| json!(schema(&mut generator)));
        operation["responses"]["200"] = match answer {
            Some(schema) => json!({"description": "Done.", "content": body(&schema)}),
            None => json!({"description": "Done."}),
        };
        if let Some(request) = route.request {
            let schema = json!(request(&mut generator));
            operation["requestBody"] = json!({"required": true, "content": body(&schema)});
        }
        let names = route.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
        let query = route.query.iter().map(|Parameter { name, kind, summary }| {
            json!({"name": name, "in": "query", "description": summary, "schema": {"type": kind}})
        });
        let parameters: Vec<Value> = names
            .map(|name| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}}))
            .chain(query)
            .collect();
        if !parameters.is_empty() {
            operation["parameters"] = Value::Array(parameters);
        }
        let path = paths.entry(format!("{PREFIX}{}", route.path)).or_insert_with(|| json!({}));
        path[route.method] = operation;
    }
    json!({
        "openapi": "3.0.3",
        "info": {"title": "Proteus", "version": "1", "license": {"name": "Apache-2.0"}},
        "paths": paths,
        "components": {
            "schemas": generator.take_definitions(true),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}],
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_checked_in_document_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../openapi/v1.json");
        let made = serde_json::to_string_pretty(&super::document()).unwrap() + "\n";
        if std::env::var_os("PROTEUS_UPDATE").is_some() {
            std::fs::write(path, &made).unwrap();
        }
        let found = std::fs::read_to_string(path).unwrap_or_default();
        assert!(found == made, "openapi/v1.json is stale: run `cargo xtask openapi`");
    }
}
