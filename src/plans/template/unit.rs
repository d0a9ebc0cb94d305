//! Units of measurement, of time and of data. Countable things (`laptops`, `people`) are no units: they stay in the text.

use super::token::Text;

/// The unit at a token, and where it ends: `kg`, `minutes`, `%`, `GB`.
pub(super) fn find(text: &Text<'_>, at: usize) -> Option<(usize, &'static str)> {
    if let Some(mark) = text.mark(at) {
        return match mark {
            '%' => Some((at + 1, "%")),
            '°' => {
                let unit = match text.raw(at + 1) {
                    "C" => "°C",
                    "F" => "°F",
                    _ => return None,
                };
                Some((at + 2, unit))
            }
            _ => None,
        };
    }
    let word = text.word(at);
    let unit = match word {
        "percent" | "prozent" | "pct" => "%",
        "kg" | "kilogram" | "kilograms" | "kilogramm" | "kilo" | "kilos" => "kg",
        "g" | "gram" | "grams" | "gramm" => "g",
        "mg" => "mg",
        "t" | "ton" | "tons" | "tonne" | "tonnes" | "tonnen" => "t",
        "lb" | "lbs" => "lb",
        "oz" | "ounce" | "ounces" => "oz",
        "km" | "kilometer" | "kilometers" | "kilometre" | "kilometres" | "kilometern" => "km",
        "m" | "meter" | "meters" | "metre" | "metres" | "metern" => "m",
        "cm" | "centimeter" | "centimeters" | "zentimeter" => "cm",
        "mm" | "millimeter" | "millimeters" => "mm",
        "mi" | "mile" | "miles" => "mi",
        "ft" | "feet" => "ft",
        "sqm" | "qm" => "m²",
        "l" | "liter" | "liters" | "litre" | "litres" | "litern" => "l",
        "ml" => "ml",
        "kwh" => "kWh",
        "kw" => "kW",
        "mb" | "megabyte" | "megabytes" => "MB",
        "gb" | "gigabyte" | "gigabytes" => "GB",
        "tb" | "terabyte" | "terabytes" => "TB",
        "kb" | "kilobyte" | "kilobytes" => "kB",
        "mbps" | "mbit" => "Mbit/s",
        "gbps" | "gbit" => "Gbit/s",
        "ms" | "millisecond" | "milliseconds" => "ms",
        "s" if text.joined(at) => "s",
        "second" | "seconds" | "sec" | "secs" | "sekunde" | "sekunden" => "second",
        "minute" | "minutes" | "min" | "mins" | "minuten" => "minute",
        "h" | "hour" | "hours" | "hrs" | "hr" | "stunde" | "stunden" => "hour",
        "day" | "days" | "tag" | "tage" | "tagen" => "day",
        "week" | "weeks" | "woche" | "wochen" => "week",
        "month" | "months" | "monat" | "monate" | "monaten" => "month",
        "year" | "years" | "jahr" | "jahre" | "jahren" => "year",
        "night" | "nights" | "nacht" | "nachte" | "nachten" => "night",
        "business" | "working" if matches!(text.word(at + 1), "day" | "days") => {
            return Some((at + 2, "working day"));
        }
        "werktage" | "werktagen" | "arbeitstage" | "arbeitstagen" => "working day",
        _ => return None,
    };
    text.ends(at + 1).then_some((at + 1, unit))
}
