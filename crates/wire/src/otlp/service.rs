//! Who sends: the name that the first resource gives its service.

use super::attributes::{read_key_value, text_of};
use crate::proto::{Message, WireError};

/// Gives `service.name` of the first resource, if it is given and not empty.
///
/// **Errors** when the bytes up to there are no `ExportMetricsServiceRequest`.
/// **Cost** that of one resource; its metrics are jumped over.
pub fn service_name(body: &[u8]) -> Result<Option<String>, WireError> {
    let mut request = Message::new(body);
    while let Some(field) = request.next_field()? {
        if field.number != 1 {
            continue;
        }
        let mut resource_metrics = field.message()?;
        while let Some(field) = resource_metrics.next_field()? {
            if field.number == 1
                && let Some(name) = name_of(field.message()?)?
            {
                return Ok(Some(name));
            }
        }
        return Ok(None);
    }
    Ok(None)
}

fn name_of(mut resource: Message<'_>) -> Result<Option<String>, WireError> {
    while let Some(field) = resource.next_field()? {
        if field.number != 1 {
            continue;
        }
        let pair = read_key_value(field.message()?)?;
        if pair.key == b"service.name" {
            let name = text_of(pair.value)?;
            return Ok(Some(name.into_owned()).filter(|name| !name.is_empty()));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::super::messages::{AnyValue, Attributes, KeyValue, Request, ResourceMetrics};
    use super::*;

    fn resource(pairs: &[(&str, &str)]) -> ResourceMetrics {
        let value = |text: &str| Some(AnyValue { string: Some(text.into()), int: None });
        let attributes = pairs.iter().map(|(key, text)| KeyValue { key: (*key).into(), value: value(text) }).collect();
        ResourceMetrics { resource: Some(Attributes { attributes }), ..ResourceMetrics::default() }
    }

    #[test]
    fn the_first_resource_names_the_sender() {
        let name = |resource_metrics: Vec<ResourceMetrics>| service_name(&Request { resource_metrics }.encode_to_vec());
        let shop = resource(&[("host.name", "h"), ("service.name", "shop")]);
        assert_eq!(name(vec![shop.clone(), resource(&[("service.name", "desk")])]), Ok(Some("shop".into())));
        assert_eq!(name(vec![resource(&[("host.name", "h")]), shop]), Ok(None));
        assert_eq!(name(vec![resource(&[("service.name", "")])]), Ok(None));
        assert_eq!(name(Vec::new()), Ok(None));
        assert!(service_name(&[0x0a, 0x7f, 1]).is_err());
    }
}
