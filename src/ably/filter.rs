//! Filters of derived channels (6.10): a JMESPath expression that a message passes or not.
//!
//! A peer writes the expression, and every message of the channel pays for it on the channel's home
//! core. So its cost is bounded before it is taken: by its length, by the number of places at which it
//! could nest or compare, and by what it may use. Fields, literals, comparisons and logic cost at most
//! the size of the message each. Everything that makes new values out of old ones is refused, as such
//! values can double with every step: projections, lists, objects, slices, pipes into those, and
//! functions that build.

use std::sync::LazyLock;

use jmespath::ast::Ast;
use jmespath::functions::{
    AbsFn, CeilFn, ContainsFn, EndsWithFn, FloorFn, LengthFn, NotNullFn, StartsWithFn, ToNumberFn,
    TypeFn,
};
use jmespath::{Context, Rcvar, Runtime, Variable};

use super::{ErrorCode, ErrorInfo, Message};

/// Bytes of an expression.
pub const FILTER_BYTES_MAX: usize = 1024;

/// Brackets, operators and dots of an expression, wherever they stand. Every level of nesting takes
/// one, so this bounds how deep the parser and the evaluation go.
const OPERATORS_MAX: usize = 128;

/// Comparisons and function calls of an expression: what costs as much as the message is large.
const COMPARISONS_MAX: usize = 32;

/// The functions that a filter may call. Each looks at its arguments once and makes nothing larger.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    let mut runtime = Runtime::new();
    runtime.register_function("abs", Box::new(AbsFn::new()));
    runtime.register_function("ceil", Box::new(CeilFn::new()));
    runtime.register_function("contains", Box::new(ContainsFn::new()));
    runtime.register_function("ends_with", Box::new(EndsWithFn::new()));
    runtime.register_function("floor", Box::new(FloorFn::new()));
    runtime.register_function("length", Box::new(LengthFn::new()));
    runtime.register_function("not_null", Box::new(NotNullFn::new()));
    runtime.register_function("starts_with", Box::new(StartsWithFn::new()));
    runtime.register_function("to_number", Box::new(ToNumberFn::new()));
    runtime.register_function("type", Box::new(TypeFn::new()));
    runtime
});

/// A filter whose cost is bounded.
pub struct Filter {
    text: Box<str>,
    ast: Ast,
}

impl Filter {
    /// Reads an expression.
    ///
    /// # Errors
    /// 40000: not JMESPath, or too costly to be applied to every message.
    pub fn compile(text: &str) -> Result<Filter, ErrorInfo> {
        if text.len() > FILTER_BYTES_MAX {
            return refuse("the filter is longer than 1024 bytes");
        }
        let operators = text.bytes().filter(|byte| b"([{!&|.<>=?,".contains(byte)).count();
        if operators > OPERATORS_MAX {
            return refuse("the filter has more than 128 operators");
        }
        let ast = match jmespath::parse(text) {
            Ok(ast) => ast,
            Err(error) => {
                let text = format!("the filter is not JMESPath: {}", error.reason);
                return Err(ErrorInfo::new(ErrorCode::BAD_REQUEST, text));
            }
        };
        let mut comparisons = 0;
        check(&ast, &mut comparisons)?;
        if comparisons > COMPARISONS_MAX {
            return refuse("the filter has more than 32 comparisons and functions");
        }
        Ok(Filter { text: text.into(), ast })
    }

    /// Whether `subject` passes: the expression gives something that counts as true. One that cannot be
    /// evaluated on it, such as a number where a function wants text, does not.
    pub fn passes(&self, subject: &Subject) -> bool {
        let mut context = Context::new(&self.text, &RUNTIME);
        let result = jmespath::interpret(&subject.0, &self.ast, &mut context);
        result.is_ok_and(|value| value.is_truthy())
    }
}

/// What filters see of a message: `name`, `clientId`, and `headers`, which are those of `extras`.
pub struct Subject(Rcvar);

impl Subject {
    /// Takes from `message` what filters see.
    pub fn of(message: &Message) -> Subject {
        let text = |text: &Option<Box<str>>| {
            Rcvar::new(match text {
                Some(text) => Variable::String((&**text).into()),
                None => Variable::Null,
            })
        };
        let headers = message.extras.as_deref().and_then(|extras| {
            let Variable::Object(extras) = Variable::from_json(extras).ok()? else { return None };
            extras.get("headers").cloned()
        });
        let fields = [
            ("name", text(&message.name)),
            ("clientId", text(&message.client_id)),
            ("headers", headers.unwrap_or_else(|| Rcvar::new(Variable::Null))),
        ];
        let fields = fields.into_iter().map(|(key, value)| (key.into(), value));
        Subject(Rcvar::new(Variable::Object(fields.collect())))
    }
}

fn refuse<T>(message: &'static str) -> Result<T, ErrorInfo> {
    Err(ErrorInfo::new(ErrorCode::BAD_REQUEST, message))
}

/// Walks the expression, no deeper than [`OPERATORS_MAX`], and counts what is costly.
fn check(ast: &Ast, comparisons: &mut usize) -> Result<(), ErrorInfo> {
    match ast {
        Ast::Field { .. } | Ast::Literal { .. } | Ast::Identity { .. } => Ok(()),
        Ast::Subexpr { lhs, rhs, .. } | Ast::And { lhs, rhs, .. } | Ast::Or { lhs, rhs, .. } => {
            check(lhs, comparisons)?;
            check(rhs, comparisons)
        }
        Ast::Not { node, .. } => check(node, comparisons),
        Ast::Comparison { lhs, rhs, .. } => {
            *comparisons += 1;
            check(lhs, comparisons)?;
            check(rhs, comparisons)
        }
        Ast::Function { name, args, .. } => {
            *comparisons += 1;
            if RUNTIME.get_function(name).is_none() {
                return refuse(
                    "a filter may call abs, ceil, contains, ends_with, floor, length, not_null, \
                     starts_with, to_number and type",
                );
            }
            args.iter().try_for_each(|argument| check(argument, comparisons))
        }
        Ast::Condition { .. }
        | Ast::Expref { .. }
        | Ast::Flatten { .. }
        | Ast::Index { .. }
        | Ast::MultiList { .. }
        | Ast::MultiHash { .. }
        | Ast::Projection { .. }
        | Ast::ObjectValues { .. }
        | Ast::Slice { .. } => refuse(
            "a filter may use fields, literals, comparisons, &&, || and !, \
             and no projections, lists, objects or indexes",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(name: Option<&str>, extras: Option<&str>) -> Subject {
        Subject::of(&Message {
            name: name.map(Box::from),
            extras: extras.map(Box::from),
            ..Message::default()
        })
    }

    #[test]
    fn a_message_passes_by_its_name_and_headers() {
        let filter = Filter::compile("name == `\"filtered\"` && headers.number == `26095`");
        let filter = filter.expect("the SDKs' own example");
        let headers = r#"{"headers":{"name":"John Bull","number":26095,"bool":false}}"#;
        assert!(filter.passes(&subject(Some("filtered"), Some(headers))));
        assert!(!filter.passes(&subject(Some("other"), Some(headers))));
        assert!(!filter.passes(&subject(Some("filtered"), None)));
        assert!(!filter.passes(&subject(Some("filtered"), Some(r#"{"headers":{"number":1}}"#))));
        assert!(!filter.passes(&subject(None, None)));
    }

    #[test]
    fn what_is_no_answer_does_not_pass() {
        let headers = r#"{"headers":{"text":"x","zero":0,"flag":true,"off":false,"none":null}}"#;
        let subject = subject(Some("n"), Some(headers));
        for (expression, passes) in [
            ("headers.flag", true),
            ("headers.off", false),
            ("headers.none", false),
            ("headers.missing", false),
            ("headers.missing.deeper", false),
            ("!(headers.missing)", true),
            ("headers.zero", true),
            ("headers.zero < `1`", true),
            ("headers.text < `1`", false),
            ("contains(headers.text, 'x')", true),
            ("starts_with(headers.zero, 'x')", false),
            ("length(headers.text) == `1`", true),
            ("(name == 'm' || name == 'n') && headers.text != 'y'", true),
            ("not_null(headers.missing, name) == 'n'", true),
            ("headers | text == 'x'", true),
        ] {
            let filter = Filter::compile(expression).expect(expression);
            assert_eq!(filter.passes(&subject), passes, "{expression}");
        }
    }

    #[test]
    fn what_is_not_jmespath_or_may_cost_too_much_is_refused() {
        let long = format!("name == '{}'", "x".repeat(FILTER_BYTES_MAX));
        let deep = format!("{}name{}", "(".repeat(129), ")".repeat(129));
        let not = format!("{}name", "!".repeat(129));
        let many = ["@==@"; 33].join("&&");
        let doubling = format!("[@,@]{}", " | [@,@]".repeat(30));
        for expression in [
            "",
            "name ==",
            "name = 'x'",
            "name == 'é",
            "headers.tags[0]",
            "headers.tags[-2147483648]",
            "headers.tags[*].a",
            "headers.*",
            "headers.tags[?a == 'b']",
            "headers.tags[]",
            "headers.tags[::2]",
            "{a: name}",
            "map(&a, headers)",
            "to_string(headers)",
            "sort(headers.tags)",
            "unknown(name)",
            &long,
            &deep,
            &not,
            &many,
            &doubling,
        ] {
            let Err(error) = Filter::compile(expression) else { panic!("{expression}") };
            assert_eq!((error.code, error.status), (ErrorCode::BAD_REQUEST, 400), "{expression}");
        }
    }

    #[test]
    fn the_most_that_is_allowed_is_taken() {
        let deep = format!("{}name{}", "(".repeat(128), ")".repeat(128));
        let not = format!("{}name", "!".repeat(128));
        let many = ["name==name"; 32].join("||");
        for expression in [&deep, &not, &many] {
            let filter = Filter::compile(expression).expect(expression);
            assert!(filter.passes(&subject(Some("n"), None)));
        }
    }

    #[test]
    fn each_prefix_and_noise_compile_or_are_refused() {
        let expression =
            "(name == `\"a\"` || !contains(headers.\"b c\", 'd')) && headers.e >= `-1`";
        let subject = subject(Some("a"), Some(r#"{"headers":{"e":0}}"#));
        for end in 0..=expression.len() {
            if let Ok(filter) = Filter::compile(&expression[..end]) {
                filter.passes(&subject);
            }
        }
        let words =
            ["name", "(", ")", "==", "'a'", "`1`", "&&", "!", ".", "|", "-", "\"q\"", "é", "["];
        let mut random = 0x9E37_79B9_7F4A_7C15u64;
        for _ in 0..20_000 {
            let mut noise = String::new();
            for _ in 0..8 {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                noise.push_str(words[(random % words.len() as u64) as usize]);
            }
            if let Ok(filter) = Filter::compile(&noise) {
                filter.passes(&subject);
            }
        }
    }
}
