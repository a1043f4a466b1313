//! The verbs of the operation table without a daemon: fields of results, refusals.

use super::*;

/// X1: every operation with a verb has fields that `--json=` can name, and every declared column is one of them.
#[test]
fn columns_and_sentences_name_fields_of_the_result() {
    for kind in OperationKind::ALL {
        let spec = kind.spec();
        let Some(verb) = spec.verb.filter(|verb| !verb.is_drawn_by_hand) else { continue };
        let names = field_names(*kind);
        assert!(names.iter().any(|name| name == "mesh"), "{}: {names:?}", spec.name);
        for column in verb.columns {
            assert!(names.iter().any(|name| name == column), "{}: {column}", spec.name);
        }
        for part in [verb.done, verb.hint].join(" ").split('{').skip(1) {
            let name = part.split('}').next().unwrap();
            let is_argument = kind.fields().iter().any(|field| field.name == name);
            assert!(
                is_argument || names.iter().any(|known| known == name),
                "{}: {{{name}}}",
                spec.name
            );
        }
        let texts: Vec<&str> = names.iter().map(String::as_str).collect();
        assert!(fields(&texts).check(&names).is_ok());
    }
}

#[test]
fn what_the_operation_refuses_is_said_in_words_of_the_command_line() {
    let kind = OperationKind::StateSet;
    let error = kind.arguments(Map::from_iter([("ifVersion".to_owned(), "x".into())])).unwrap_err();
    let failure = unfit(&error, kind.spec().verb.unwrap(), "state set");
    assert_eq!((failure.exit, failure.message.as_str()), (3, "state set: --if-version"));
    assert_eq!(failure.details, ["expected: a whole number"]);
}
