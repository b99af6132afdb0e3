//! Our own servers keep the same promises as every engine: the lock server, and the embedded one.

mod officer {
    use crate::engines::Officer;
    use crate::suite::{over_a_network, suite};
    use crate::wrapper::wrapper;

    suite!(Officer);
    over_a_network!(Officer);
    wrapper!(Officer);
}

/// Its clients start it, and are on its host.
mod local {
    use crate::engines::Local;
    use crate::suite::suite;
    use crate::wrapper::wrapper;

    suite!(Local);
    wrapper!(Local);
}
