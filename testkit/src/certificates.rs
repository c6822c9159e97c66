//! Certificates for tests, created by openssl.

use std::{fs, path::Path, process::Command};

use super::process::cannot_run;

fn openssl(dir: &Path, arguments: &str) {
    let output = Command::new("openssl")
        .args(arguments.split(' '))
        .current_dir(dir)
        .output()
        .unwrap_or_else(|error| panic!("{}", cannot_run("openssl", "openssl", &error)));
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "openssl {arguments}:\n{log}");
}

/// Creates an authority with that name, as `NAME.crt` and `NAME.key`.
pub fn make_authority(dir: &Path, name: &str) {
    fs::write(
        dir.join("authority.cnf"),
        "[req]\ndistinguished_name = name\nx509_extensions = authority\n[name]\n\
         [authority]\nbasicConstraints = critical, CA:TRUE\nkeyUsage = keyCertSign\n\
         subjectKeyIdentifier = hash\n",
    )
    .expect("written");
    openssl(
        dir,
        &format!(
            "req -x509 -config authority.cnf -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 \
             -nodes -days 2 -subj /CN={name} -keyout {name}.key -out {name}.crt"
        ),
    );
}

/// Creates a certificate of that authority for this machine, as `NAME.crt` and `NAME.key`.
pub fn make_certificate(dir: &Path, authority: &str, name: &str) {
    let extensions = "subjectAltName = DNS:localhost, IP:127.0.0.1\n";
    fs::write(dir.join("names.cnf"), extensions).expect("written");
    openssl(
        dir,
        &format!(
            "req -new -config authority.cnf -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes \
             -subj /CN=localhost -keyout {name}.key -out {name}.csr"
        ),
    );
    openssl(
        dir,
        &format!(
            "x509 -req -in {name}.csr -CA {authority}.crt -CAkey {authority}.key -set_serial 1 \
             -days 2 -extfile names.cnf -out {name}.crt"
        ),
    );
}
