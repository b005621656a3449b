"""What tests share: tiny models, folders, servers."""
