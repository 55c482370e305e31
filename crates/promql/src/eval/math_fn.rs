//! Functions of one number.

/// Finds a function by its name in PromQL.
pub(super) fn lookup(name: &str) -> Option<fn(f64) -> f64> {
    Some(match name {
        "abs" => f64::abs,
        "acos" => f64::acos,
        "acosh" => f64::acosh,
        "asin" => f64::asin,
        "asinh" => f64::asinh,
        "atan" => f64::atan,
        "atanh" => f64::atanh,
        "ceil" => f64::ceil,
        "cos" => f64::cos,
        "cosh" => f64::cosh,
        "deg" => |v| v * 180.0 / std::f64::consts::PI,
        "exp" => f64::exp,
        "floor" => f64::floor,
        "ln" => f64::ln,
        "log10" => f64::log10,
        "log2" => f64::log2,
        "rad" => |v| v * std::f64::consts::PI / 180.0,
        "sgn" => sign,
        "sin" => f64::sin,
        "sinh" => f64::sinh,
        "sqrt" => f64::sqrt,
        "tan" => f64::tan,
        "tanh" => f64::tanh,
        _ => return None,
    })
}

/// -1 or 1; zeros and NaN stay what they are.
fn sign(value: f64) -> f64 {
    if value < 0.0 {
        -1.0
    } else if value > 0.0 {
        1.0
    } else {
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_and_angles() {
        assert_eq!([-3.0, 0.0, 7.0].map(sign), [-1.0, 0.0, 1.0]);
        assert!(sign(f64::NAN).is_nan());
        assert_eq!(lookup("deg").map(|f| f(std::f64::consts::PI)), Some(180.0));
        assert!(lookup("rate").is_none());
    }
}
