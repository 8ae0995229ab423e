import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;

/** Writes the certificates of a PEM file to a new trust store of Java. */
class TrustStore {
    public static void main(String[] arguments) throws Exception {
        var store = KeyStore.getInstance("PKCS12");
        store.load(null, null);
        try (var pem = Files.newInputStream(Path.of(arguments[0]))) {
            for (var certificate : CertificateFactory.getInstance("X.509").generateCertificates(pem)) {
                store.setCertificateEntry("certificate " + store.size(), certificate);
            }
        }
        try (var out = Files.newOutputStream(Path.of(arguments[1]))) {
            store.store(out, "changeit".toCharArray());
        }
    }
}
