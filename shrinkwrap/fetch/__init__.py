"""Where bytes come from: servers, proxies, storage on local disk. Gives no trust to what arrives."""
